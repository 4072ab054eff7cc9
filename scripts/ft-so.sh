#!/usr/bin/env bash
# Fine-tune the pre-trained encoder on ScanObjectNN by the published protocol.
#   scripts/ft-so.sh [FLAGS OF finetune_cls.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
start=(--model_path checkpoints/crosspoint_cls/models/best_model.pth)
case " $* " in *" --from_scratch "*) start=() ;; esac
launch ft-so 600 finetune_cls.py --dataset scanobjectnn --exp_name finetune_scanobjectnn \
  ${start[@]+"${start[@]}"} -- "$@"
