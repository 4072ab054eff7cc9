# shellcheck shell=bash
# Sourced after launch.sh by what makes several runs, checkpoints/NAME_*, and a table of them.
#
#   study_flags DEFAULT_NAME "$@"     sets name, smoke (yes or empty), the flags of every script,
#                                     and rest: what follows --
#   stage RUN "NEEDED RUNS" LAUNCHER FLAGS...    runs or enqueues the launcher as NAME_RUN
#   finish MODULE                     the table, and exit with 1 if a run failed

trap 'exit 130' INT TERM # torchrun itself ends with an ordinary error

study_flags() {
  local usual=$1
  shift
  name='' smoke='' flags=() rest=()
  while [ $# -gt 0 ]; do
    case $1 in
      --smoke) smoke=yes; shift ;;
      --name) name=${2:?--name needs a name}; shift 2 ;;
      --) rest=("${@:2}"); break ;;
      -h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
      --data_root | --seed | --wandb | --wb_url | --dist_timeout | --num_points | --k | \
        --emb_dims | --edgeconv | --test_batch_size)
        flags+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
      *) echo "error: $1 is not a flag of every script; see $0 --help" >&2; exit 2 ;;
    esac
  done
  name=${name:-${smoke:+${usual/study/smoke}}}
  name=${name:-$usual}
  [ -n "$smoke" ] || return 0
  . scripts/environment.sh requirements.txt
  local data=data/synthetic_smoke
  python -m datasets.synthetic --out "$data" --shapes 480 --seed 0
  flags=(--data_root "$data" --wandb disabled --num_points 128 --k 8 --emb_dims 128
    "${flags[@]}")
}

declare -A task # of each run: its number in the queue, or how it ended
stage() {
  local run=$1 needed='' launcher=$3 start=$SECONDS word
  for word in $2; do needed+=" ${task[$word]}"; done
  local command=("scripts/$launcher" --exp_name "${name}_$run" "${@:4}" "${flags[@]}")
  if [ "${QUEUE:-}" = pueue ]; then
    task[$run]=$(PUEUE_AFTER=${needed:-${PUEUE_AFTER:-}} PUEUE_LABEL=${name}_$run \
      "${command[@]}")
    echo "task ${task[$run]}: ${name}_$run${needed:+, after$needed}"
  elif [[ $needed = *failed* ]]; then
    task[$run]=failed
    echo "== $run: not run, because $2 failed" >&2
  else
    echo "== $run" >&2
    if "${command[@]}"; then task[$run]=ended; else task[$run]=failed; fi
    echo "== $run: ${task[$run]} after $((SECONDS - start)) s" >&2
  fi
}

finish() {
  local number
  if [ "${QUEUE:-}" = pueue ]; then
    number=$(PUEUE_AFTER="${task[*]}" enqueue "${name}_table" python -m "$1" "$name")
    echo "task $number: the table, if all of them succeed: pueue log --full $number"
    echo "at any time: python -m $1 $name"
    exit
  fi
  python -m "$1" "$name"
  case " ${task[*]} " in *" failed "*) exit 1 ;; esac
}
