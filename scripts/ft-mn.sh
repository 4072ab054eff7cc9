#!/usr/bin/env bash
# Fine-tune the pre-trained encoder on ModelNet40 by CrossPoint-DDP's protocol.
#   scripts/ft-mn.sh [FLAGS OF finetune_cls.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
start=(--model_path checkpoints/crosspoint_cls/models/best_model.pth)
if given --from_scratch "$@"; then start=(); fi
name=(--exp_name finetune_modelnet40)
if given --eval "$@"; then name=(); fi # its own name says what was judged
launch ft-mn 600 finetune_cls.py --dataset modelnet40 "${name[@]}" "${start[@]}" -- "$@"
