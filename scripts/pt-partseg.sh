#!/usr/bin/env bash
# Pre-train the part-segmentation encoder by the published protocol.
#   scripts/pt-partseg.sh [FLAGS OF train_crosspoint.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
launch pt-partseg 20 train_crosspoint.py --model dgcnn_seg \
  --exp_name crosspoint_partseg -- "$@"
