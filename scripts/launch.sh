# shellcheck shell=bash
# Sourced by the launchers: starts a script on the GPUs of this node, or enqueues it.
#
#   launch LABEL BATCH SCRIPT DEFAULTS... -- "$@"
#
# LABEL names the task in the queue. BATCH is the script's default global batch, or `any` if
# the number of processes need not divide it. DEFAULTS are the protocol's flags; the user's
# follow `--` and come later, so they win. Paths are relative to the repository.
#   NGPU=n         use n GPUs instead of all (0: one process on the CPU)
#   QUEUE=pueue    enqueue with pueue instead of running; PUEUE_GROUP (default: default),
#                  PUEUE_AFTER="ID ..." to wait for other tasks, PUEUE_LABEL for another
#                  label; prints the task's number

given() { # given FLAG WORDS...: whether the flag is among the words
  local flag=$1 word
  shift
  for word in "$@"; do
    case $word in "$flag" | "$flag"=*) return 0 ;; esac
  done
  return 1
}

tuning() { # tuning RUN PRETRAINED "$@": sets tuning, the defaults that the user's words leave
  tuning=()
  # With --eval the script's own name says what was evaluated.
  given --eval "${@:3}" || tuning+=(--exp_name "$1")
  given --from_scratch "${@:3}" ||
    tuning+=(--model_path "checkpoints/$2/models/best_model.pth")
}

# Merged points make another size of tensors in every step, which would fragment a GPU's
# memory.
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

launch() {
  local label=$1 batch=$2 script=$3 defaults=()
  shift 3
  while [ "$1" != -- ]; do defaults+=("$1"); shift; done
  shift
  case ${1:-} in -h | --help)
    sed -n '/^#   NGPU/,/^$/s/^#   //p' "${BASH_SOURCE[0]}"
    printf '\nDefaults here: %s; all flags of %s:\n\n' "${defaults[*]:-none}" "$script"
    python "$script" --help
    return
    ;;
  esac
  case ${QUEUE:-} in
    '') ;;
    pueue)
      if ! command -v pueue >/dev/null; then
        echo "error: QUEUE=pueue: no pueue is installed (https://github.com/Nukesor/pueue);" >&2
        echo "       unset QUEUE to run it now" >&2
        return 2
      fi
      ;;
    *) echo "error: QUEUE=$QUEUE is not known; set QUEUE=pueue, or unset it to run now" >&2; return 2 ;;
  esac
  local gpus=${NGPU:-} processes word previous=''
  for word in "$@"; do
    [ "$previous" != --batch_size ] || batch=$word
    case $word in --batch_size=*) batch=${word#*=} ;; esac
    previous=$word
  done
  case $batch in
    any) ;;
    '' | *[!0-9]* | 0)
      echo "error: --batch_size takes a positive number, got '$batch'" >&2; return 2 ;;
  esac
  [ -n "$gpus" ] || gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
  case $gpus in '' | *[!0-9]*)
    echo "error: NGPU takes a number, got '$gpus'" >&2; return 2 ;;
  esac
  processes=$((gpus > 1 ? gpus : 1))
  while [ "$batch" != any ] && [ $((batch % processes)) -ne 0 ]; do
    processes=$((processes - 1))
  done
  if [ "$gpus" -gt 0 ] && [ "$processes" -ne "$gpus" ]; then
    echo "$label: $processes of $gpus GPUs, the most that divide a batch of $batch" >&2
  fi
  local device=()
  [ "${NGPU:-}" != 0 ] || device=(env CUDA_VISIBLE_DEVICES=) # hide the GPUs
  local command=(${device[@]+"${device[@]}"} torchrun --standalone "--nproc_per_node=$processes"
    "$script" ${defaults[@]+"${defaults[@]}"} "$@")
  if [ -z "${QUEUE:-}" ]; then
    printf '%q ' "${command[@]}" >&2
    echo >&2
    "${command[@]}"
  else
    enqueue "$label" "${command[@]}"
  fi
}

enqueue() { # enqueue LABEL COMMAND...
  local after=() id told
  for id in ${PUEUE_AFTER:-}; do after+=(--after "$id"); done
  # pueue hands one line to a shell: quote every word for it. Version 3 prints its errors
  # where the number is expected.
  if ! told=$(pueue add --print-task-id --group "${PUEUE_GROUP:-default}" \
    --label "${PUEUE_LABEL:-$1}" --working-directory "$PWD" ${after[@]+"${after[@]}"} \
    -- "$(printf '%q ' "${@:2}")"); then
    [ -z "$told" ] || echo "$told" >&2
    echo "error: QUEUE=pueue: not enqueued, for the reason above; a daemon is started by" >&2
    echo "       'pueued --daemonize', a group is made by 'pueue group add NAME'" >&2
    return 2
  fi
  echo "$told"
}
