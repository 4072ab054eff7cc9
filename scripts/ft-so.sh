#!/usr/bin/env bash
# Fine-tune the pre-trained encoder on ScanObjectNN by CrossPoint-DDP's protocol.
#   scripts/ft-so.sh [FLAGS OF finetune_cls.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
tuning finetune_scanobjectnn crosspoint_cls "$@"
launch ft-so 600 finetune_cls.py --dataset scanobjectnn "${tuning[@]}" -- "$@"
