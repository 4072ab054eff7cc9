#!/usr/bin/env bash
# Fetch the data sets and the published weights, unpack and check them: a front to
# `python -m datasets.download` that works from any folder. --help says the rest.
#
#   bash data/download_data.sh                    everything
#   bash data/download_data.sh --only modelnet40  one: shapenet (clouds and renderings),
#                                                 modelnet40, scanobjectnn, shapenetpart,
#                                                 weights
#   bash data/download_data.sh --dry_run          say what would be done
set -euo pipefail
cd "$(dirname "$0")/.."

python=python3
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then
  python=.venv/bin/python # as the other scripts leave it
fi
exec "$python" -m datasets.prepare.download "$@"
