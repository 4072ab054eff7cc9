#!/usr/bin/env bash
# From nothing to a pre-trained encoder, its score and a report, on synthetic data:
#
#   scripts/quickstart.sh               one run, minutes on 2 CPU cores
#   scripts/quickstart.sh --seeds 3     three runs: mean and deviation
#
# Writes data/synthetic and checkpoints/quickstart*. A second run reuses the environment
# and the data.
set -euo pipefail
cd "$(dirname "$0")/.."

seeds=1
while [ $# -gt 0 ]; do
  case $1 in
    --seeds) seeds=${2:?--seeds takes 1, 2, ...}; shift 2 ;;
    -h | --help) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "error: unknown argument $1; see $0 --help" >&2; exit 2 ;;
  esac
done
case $seeds in *[!0-9]* | 0) echo "error: --seeds takes 1, 2, ..." >&2; exit 2 ;; esac

. scripts/environment.sh requirements.txt

. scripts/launch.sh
unset QUEUE
# On the GPUs, or by two processes on the CPU.
gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -eq 0 ]; then
  cores=$(getconf _NPROCESSORS_ONLN)
  export NGPU="${NGPU:-2}" OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((cores > 1 ? cores / 2 : 1))}"
fi

runs=checkpoints/quickstart
mkdir -p "$runs"
times=$runs/stages.tsv
: >"$times"
stage() { # stage NAME COMMAND...: run it, and record its seconds
  local name=$1 start=$SECONDS
  shift
  printf '\n== %s\n   %s\n' "$name" "$*"
  "$@"
  printf '%s\t%s\n' "$name" "$((SECONDS - start))" >>"$times"
}

# Small enough for two cores: 256 points, 10 neighbours, ResNet-18 on 64x64 images.
encoder=(--num_points 256 --k 10 --emb_dims 256)
common=(--data_root data/synthetic --overwrite)

stage "synthetic data" python -m datasets.synthetic \
  --out data/synthetic --shapes 480 --seed 0

judge() { # judge NAME WEIGHTS SEED: a linear SVM on both evaluation sets
  launch "SVM" any eval_svm.py "${common[@]}" "${encoder[@]}" \
    --dataset modelnet40 scanobjectnn --C 0.01 0.1 1 10 100 --wandb disabled \
    --model_path "$2" --seed "$3" --exp_name "quickstart_$1_seed$3" --
}

trained=() before=() after=()
for seed in $(seq "$seeds"); do
  trained+=("${runs}_seed$seed")
  before+=("${runs}_untrained_seed$seed")
  after+=("${runs}_pretrained_seed$seed")
  stage "SVM, untrained encoder, seed $seed" judge untrained none "$seed"
  stage "pre-training, seed $seed" launch pre-training 16 train_crosspoint.py \
    "${common[@]}" "${encoder[@]}" \
    --image_encoder resnet18 --image_size 64 --batch_size 16 --epochs 6 \
    --svm_every 0 --num_workers 1 --seed "$seed" --exp_name "quickstart_seed$seed" --
  stage "SVM, pre-trained encoder, seed $seed" judge pretrained \
    "checkpoints/quickstart_seed$seed/models/best_model.pth" "$seed"
done

stage report python -m scripts.report "${trained[@]}" \
  --untrained "${before[@]}" --pretrained "${after[@]}" --out "$runs/report.html"

python -m scripts.quickstart_table "$seeds" | tee "$runs/table.txt"
