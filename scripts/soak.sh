#!/usr/bin/env bash
# Long tests that scripts/test.sh is too short for:
#
#   scripts/soak.sh fuzz [CASES] [SEED]   the readers of PLY, PNG and HDF5 get CASES files
#                                         in all (default: 100000), damaged or arbitrary
#   scripts/soak.sh kills [KILLS] [SEED]  random ranks of a training run are killed at
#                                         random steps (default: 20 times)
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:-}
[ $# -eq 0 ] || shift
case $what in
  -h | --help | '') sed -n '2,7s/^# \{0,1\}//p' "$0"; exit 0 ;;
  kills)
    . scripts/environment.sh requirements-dev.txt
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    exec python -m tests.soak --kills "${1:-20}" --seed "${2:-0}"
    ;;
  fuzz)
    cases=${1:-100000} seed=${2:-0}
    case $cases$seed in
      *[!0-9]*) echo "error: fuzz takes two whole numbers: CASES SEED" >&2; exit 2 ;;
    esac
    . scripts/environment.sh requirements-dev.txt
    exec python -m tests.datasets.fuzz --cases $(((cases + 2) / 3)) --seed "$seed"
    ;;
  *) echo "error: unknown subcommand $what; see $0 --help" >&2; exit 2 ;;
esac
