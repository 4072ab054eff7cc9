#!/usr/bin/env bash
# Lint, types and all tests, two files at a time (-n 0: one, which --pdb and -s need).
# `--fast` leaves out tests marked slow, `--gpu` runs only those of the kernels, on a GPU
# instead of Triton's interpreter; other arguments go to pytest:
#   scripts/test.sh [--fast | --gpu] [PYTEST ARGUMENTS]
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in -h | --help) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
. scripts/environment.sh requirements-dev.txt
select=()
if [ "${1:-}" = --fast ]; then
  shift
  select=(-m "not slow")
elif [ "${1:-}" = --gpu ]; then
  shift
  export TEST_ON_GPU=1
  exec python -m pytest tests/models tests/datasets/test_transforms.py "$@"
fi
ruff check .
ruff format --check .
mypy & types=$! # beside the tests, which wait for processes now and then
# One thread per process: tests are small, and some start up to four processes.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# loadfile: runs that the tests of a file share are made once. tests/conftest.py has the order.
status=0
python -m pytest -n 2 --dist loadfile --no-loadscope-reorder ${select[@]+"${select[@]}"} "$@" || status=$?
wait "$types" || exit 1
exit "$status"
