#!/usr/bin/env bash
# Long tests: trainings in a real queue, stopped and continued in every way. They are not
# part of scripts/test.sh.
#
#   scripts/soak.sh queue [PYTEST ARGUMENTS]      pueue's own daemon
#   scripts/soak.sh cluster [PYTEST ARGUMENTS]    Slurm: a controller and two nodes, all here
#
# Installs what is missing: pueue with cargo, Slurm with apt (as root). Daemons, sockets and
# runs are in temporary folders.
set -euo pipefail
cd "$(dirname "$0")/.."

need() { # need PROGRAM INSTALL COMMAND...: install it unless it is there
  ! command -v "$1" >/dev/null || return 0
  if ! command -v "$2" >/dev/null; then
    echo "error: $1 is missing, and so is $2 to install it" >&2
    exit 1
  fi
  echo "installing: ${*:2}"
  "${@:2}"
}

what=${1:-}
case $what in
  queue)
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    need pueued cargo install pueue --locked
    pueue --version
    ;;
  cluster)
    PATH=$PATH:/usr/sbin
    need slurmctld apt-get install --yes --no-install-recommends slurm-wlm munge
    slurmctld -V
    ;;
  -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
  *) echo "error: expected queue or cluster, got '$what'; see $0 --help" >&2; exit 2 ;;
esac
shift
. scripts/environment.sh requirements-dev.txt
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec python -m pytest -vv --durations=0 --durations-min=1 "tests/scripts/soak_$what.py" "$@"
