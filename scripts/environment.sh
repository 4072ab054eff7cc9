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
  _sum=$(cat requirements*.txt | cksum | cut -d' ' -f1)
  if [ -e ".venv/.$_wanted.$_sum" ] || [ -e ".venv/.requirements-dev.txt.$_sum" ]; then
    echo "environment: .venv (reused)"
  else
    echo "environment: .venv, installing $_wanted (some GB, takes minutes)"
    [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
    .venv/bin/python -m pip install -r "$_wanted"
    touch ".venv/.$_wanted.$_sum"
  fi
  # shellcheck disable=SC1091  # made by the line above
  . .venv/bin/activate
fi
# Both files, because requirements-dev.txt begins with "-r requirements.txt".
_names=$(sed -nE 's/^([A-Za-z][A-Za-z0-9_.-]*).*/\1/p' requirements.txt "$_wanted" | sort -u)
# shellcheck disable=SC2086  # one word a package
_missing=$(python - $_names <<'PYTHON'
import re, sys
from importlib.metadata import distributions
plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
found = {plain(package.metadata["Name"] or "") for package in distributions()}
print(*[name for name in sys.argv[1:] if plain(name) not in found])
PYTHON
)
if [ -n "$_missing" ]; then
  echo "error: the active environment lacks: $_missing" >&2
  echo "       run 'pip install -r $_wanted', or deactivate it to have .venv made" >&2
  exit 1
fi
unset _wanted _sum _names _missing
