#!/usr/bin/env bash
# The local W&B server that `--wandb online` looks for, in Docker:
#
#   scripts/wandb_server.sh [--port N] [--address A]
#                                     start it on http://localhost:28282, or port N
#   scripts/wandb_server.sh --stop    stop it; its runs are kept, in the volume crosspoint-wandb
#
# It is started again when the machine boots, unless it was stopped. Only this machine can
# reach it; with --address 0.0.0.0 others can too, and the first visitor creates the account.
set -euo pipefail

name=crosspoint-wandb usual=28282
port=$usual address=127.0.0.1 stop=''
while [ $# -gt 0 ]; do
  case $1 in
    --port) port=${2:?--port takes a number}; shift 2 ;;
    --address) address=${2:?--address takes an IP address of this machine}; shift 2 ;;
    --stop) stop=yes; shift ;;
    -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown argument $1; see $0 --help" >&2; exit 2 ;;
  esac
done
case $port in *[!0-9]*) echo "error: --port takes a number, got '$port'" >&2; exit 2 ;; esac

if ! command -v docker >/dev/null; then
  echo "error: docker is not installed (https://docs.docker.com/engine/install);" \
    "without a server, use --wandb offline" >&2
  exit 1
fi
if ! trouble=$(docker info 2>&1 >/dev/null); then
  echo "error: docker does not work: $(tail -n 1 <<<"$trouble")" >&2
  echo "Is its daemon running, and are you in the group docker?" >&2
  exit 1
fi

state=$(docker container inspect --format '{{.State.Status}}' "$name" 2>/dev/null || true)
if [ "$state" = running ] && [ -z "$stop" ]; then
  echo "the server is already running, on $(docker port "$name" 8080 | head -n 1)"
  exit 0
fi
# Removed in any case: the runs are in the volume, and a new container may have another
# port and image.
[ -z "$state" ] || docker rm --force "$name" >/dev/null
if [ -n "$stop" ]; then
  echo "the server is stopped; its runs are kept, in the volume $name"
  exit 0
fi
docker run --detach --name "$name" --restart unless-stopped \
  --publish "$address:$port:8080" --volume "$name:/vol" wandb/local >/dev/null

url=http://localhost:$port
cat <<TEXT
The server is starting: docker logs -f $name shows how far it is.
  1. open $url, make an account, and copy the key of $url/authorize
  2. wandb login --host $url, which asks for the key; or export WANDB_API_KEY
  3. train with --wandb online$([ "$port" = "$usual" ] || echo " --wb_url $url")
TEXT
