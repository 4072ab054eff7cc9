#!/usr/bin/env bash
# Fine-tune the pre-trained part-segmentation encoder on ShapeNetPart.
#   scripts/ft-partseg.sh [FLAGS OF train_partseg.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
start=(--model_path checkpoints/crosspoint_partseg/models/best_model.pth)
if given --from_scratch "$@"; then start=(); fi
name=(--exp_name finetune_partseg)
if given --eval "$@"; then name=(); fi # its own name says what was judged
launch ft-partseg 32 train_partseg.py "${name[@]}" "${start[@]}" -- "$@"
