#!/usr/bin/env bash
# Fetch the data sets and the published weights, unpack and check them: runs
# `python -m datasets.download` from any folder, also by `source`. --help says the rest.
#
#   bash data/download_data.sh                    everything
#   bash data/download_data.sh --only modelnet40  one: shapenet (clouds and renderings),
#                                                 modelnet40, scanobjectnn, shapenetpart,
#                                                 weights
#   bash data/download_data.sh --dry_run          only print what would be done
( # a subshell, so that `source` changes nothing in the user's shell
  set -euo pipefail
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  python=python3
  if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -x .venv/bin/python ]; then
    python=.venv/bin/python # as the other scripts leave it
  fi
  "$python" -m datasets.download "$@"
)
