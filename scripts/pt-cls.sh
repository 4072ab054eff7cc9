#!/usr/bin/env bash
# Pre-train the classification encoder by the published protocol.
#   scripts/pt-cls.sh [FLAGS OF train_crosspoint.py]        NGPU=n QUEUE=pueue: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
launch pt-cls 20 train_crosspoint.py --model dgcnn --exp_name crosspoint_cls -- "$@"
