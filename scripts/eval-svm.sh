#!/usr/bin/env bash
# Linear SVM on both data sets, C chosen on held-out training data.
#   scripts/eval-svm.sh [FLAGS OF eval_svm.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
launch eval-svm any eval_svm.py --dataset modelnet40 scanobjectnn --C 0.01 0.1 1 10 100 \
  --model_path checkpoints/crosspoint_cls/models/best_model.pth -- "$@"
