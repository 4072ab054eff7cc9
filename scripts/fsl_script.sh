#!/usr/bin/env bash
# Few-shot episodes on both data sets: the four published settings, or those of the flags.
#   scripts/fsl_script.sh [FLAGS OF eval_fewshot.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
settings=(--table)
if given --k_way "$@" || given --m_shot "$@"; then settings=(); fi
launch fewshot any eval_fewshot.py --dataset modelnet40 scanobjectnn "${settings[@]}" \
  --model_path checkpoints/crosspoint_cls/models/best_model.pth -- "$@"
