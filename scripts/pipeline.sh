#!/usr/bin/env bash
# The complete study: two pre-trainings, linear SVM, few-shot, three fine-tunings, a table.
#
#   scripts/pipeline.sh [--name NAME] [FLAGS]   of every script: --data_root, --seed, --wandb,
#                                       --wb_url, --dist_timeout, --num_points, --k, --emb_dims,
#                                       --edgeconv, --test_batch_size
#   scripts/pipeline.sh --smoke         the same, small, on synthetic data: minutes on 2 cores
#   QUEUE=pueue scripts/pipeline.sh     enqueue all of it, each task after those it needs,
#                                       the first after those of PUEUE_AFTER
#
# Runs are checkpoints/NAME_* (default: study). Started again, it resumes the trainings and
# repeats the evaluations. If a run fails, only those that need it are left out.
# NGPU, PUEUE_GROUP: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh

trap 'exit 130' INT TERM # torchrun itself ends with an ordinary error

name='' smoke='' flags=()
while [ $# -gt 0 ]; do
  case $1 in
    --smoke) smoke=yes; shift ;;
    --name) name=${2:?--name needs a name}; shift 2 ;;
    -h | --help) sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0 ;;
    --data_root | --seed | --wandb | --wb_url | --dist_timeout | --num_points | --k | \
      --emb_dims | --edgeconv | --test_batch_size)
      flags+=("$1" "${2:?$1 needs a value}"); shift 2 ;;
    *) echo "error: $1 is not a flag of every script; see $0 --help" >&2; exit 2 ;;
  esac
done
name=${name:-${smoke:+smoke}}
name=${name:-study}

pretrain=() episodes=() tune=()
if [ -n "$smoke" ]; then
  . scripts/environment.sh requirements.txt
  data=data/synthetic_smoke
  python -m datasets.synthetic --out "$data" --shapes 480 --seed 0
  flags=(--data_root "$data" --wandb disabled --num_points 128 --k 8 --emb_dims 128
    "${flags[@]}")
  pretrain=(--image_encoder resnet18 --image_size 32 --epochs 2 --batch_size 16)
  episodes=(--n_query 10)
  tune=(--epochs 3 --batch_size 32)
fi

declare -A task # of each run: its number in the queue, or how it ended
# stage RUN "NEEDED RUNS" LAUNCHER FLAGS...: run the launcher as checkpoints/NAME_RUN, or
# enqueue it after the runs that it needs.
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

cls=checkpoints/${name}_pt-cls/models/best_model.pth
seg=checkpoints/${name}_pt-partseg/models/best_model.pth
stage pt-cls '' pt-cls.sh --resume "${pretrain[@]}"
stage pt-partseg '' pt-partseg.sh --resume "${pretrain[@]}"
stage svm pt-cls eval-svm.sh --overwrite --model_path "$cls"
stage fewshot pt-cls fsl_script.sh --overwrite --model_path "$cls" "${episodes[@]}"
stage ft-mn pt-cls ft-mn.sh --resume --model_path "$cls" "${tune[@]}"
stage ft-so pt-cls ft-so.sh --resume --model_path "$cls" "${tune[@]}"
stage ft-partseg pt-partseg ft-partseg.sh --resume --model_path "$seg" "${tune[@]}"

if [ "${QUEUE:-}" = pueue ]; then
  number=$(PUEUE_AFTER="${task[*]}" enqueue "${name}_table" python -m scripts.pipeline_table "$name")
  echo "task $number: the table, if all of them succeed: pueue log --full $number"
  echo "at any time: python -m scripts.pipeline_table $name"
  exit
fi
python -m scripts.pipeline_table "$name"
case " ${task[*]} " in *" failed "*) exit 1 ;; esac
