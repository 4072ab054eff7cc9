#!/usr/bin/env bash
# Fine-tune the pre-trained part-segmentation encoder on ShapeNetPart.
#   scripts/ft-partseg.sh [FLAGS OF train_partseg.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
tuning finetune_partseg crosspoint_partseg "$@"
launch ft-partseg 32 train_partseg.py "${tuning[@]}" -- "$@"
