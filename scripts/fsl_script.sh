#!/usr/bin/env bash
# The four published few-shot settings, on both data sets unless --dataset chooses one.
#   scripts/fsl_script.sh [FLAGS OF eval_fewshot.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
sets=(modelnet40 scanobjectnn)
case " $* " in *" --dataset "*) sets=("") ;; esac
for set in "${sets[@]}"; do
  launch "fewshot${set:+-$set}" 32 eval_fewshot.py --table ${set:+--dataset "$set"} \
    --model_path checkpoints/crosspoint_cls/models/best_model.pth -- "$@"
done
