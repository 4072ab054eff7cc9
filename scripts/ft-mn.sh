#!/usr/bin/env bash
# Fine-tune the pre-trained encoder on ModelNet40 by CrossPoint-DDP's protocol.
#   scripts/ft-mn.sh [FLAGS OF finetune_cls.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
tuning finetune_modelnet40 crosspoint_cls "$@"
launch ft-mn 600 finetune_cls.py --dataset modelnet40 "${tuning[@]}" -- "$@"
