#!/usr/bin/env bash
# Fine-tune the pre-trained encoder on ScanObjectNN by CrossPoint-DDP's protocol.
#   scripts/ft-so.sh [FLAGS OF finetune_cls.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
start=(--model_path checkpoints/crosspoint_cls/models/best_model.pth)
if given --from_scratch "$@"; then start=(); fi
name=(--exp_name finetune_scanobjectnn)
if given --eval "$@"; then name=(); fi # its own name says what was judged
launch ft-so 600 finetune_cls.py --dataset scanobjectnn "${name[@]}" "${start[@]}" -- "$@"
