# shellcheck shell=bash
# Sourced by the other scripts: puts a Python with the project's packages on PATH.
# usage: . scripts/environment.sh REQUIREMENTS_FILE      (from the repository root)
#
# An active virtual or conda environment is used as it is. Without one, .venv is made
# from REQUIREMENTS_FILE with ${PYTHON:-python3}, and made again when that file changes.

_wanted=$1
if [ -n "${VIRTUAL_ENV:-}" ] || [ -n "${CONDA_PREFIX:-}" ]; then
  echo "environment: ${VIRTUAL_ENV:-$CONDA_PREFIX} (active)"
else
  if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    echo "error: Python 3.10 or newer is needed; name one: PYTHON=python3.12 $0" >&2
    exit 1
  fi
  # requirements-dev.txt holds all of requirements.txt, so its stamp covers the latter.
  _stamp=.venv/.requirements.txt.$(cksum <requirements.txt | cut -d' ' -f1)
  _full=.venv/.requirements-dev.txt.$(cat requirements*.txt | cksum | cut -d' ' -f1)
  [ "$_wanted" = requirements.txt ] || _stamp=$_full
  if [ -e "$_stamp" ] || [ -e "$_full" ]; then
    echo "environment: .venv (reused)"
  else
    echo "environment: .venv, installing $_wanted (some GB, minutes) ..."
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install --quiet -r "$_wanted"
    touch "$_stamp"
  fi
  # shellcheck disable=SC1091  # made by the line above
  . .venv/bin/activate
fi
if ! _missing=$(python - "$_wanted" <<'PYTHON'
import importlib.metadata, re, sys
names = set()
def read(path):
    for line in open(path):
        if line.startswith("-r "):
            read(line.split()[1])
        elif re.match(r"[A-Za-z]", line):
            names.add(re.match(r"[A-Za-z0-9_.-]+", line)[0])
def installed(name):
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False
read(sys.argv[1])
print(*sorted(n for n in names if not installed(n)))
sys.exit(not all(map(installed, names)))
PYTHON
); then
  echo "error: the active environment lacks: $_missing" >&2
  echo "       pip install -r $_wanted, or deactivate it and .venv is made" >&2
  exit 1
fi
unset _wanted _stamp _full _missing
