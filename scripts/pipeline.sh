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
. scripts/stages.sh

study_flags study "$@"
pretrain=() episodes=() tune=()
if [ -n "$smoke" ]; then
  pretrain=(--image_encoder resnet18 --image_size 32 --epochs 2 --batch_size 16)
  episodes=(--n_query 10)
  tune=(--epochs 3 --batch_size 32)
fi

cls=checkpoints/${name}_pt-cls/models/best_model.pth
seg=checkpoints/${name}_pt-partseg/models/best_model.pth
stage pt-cls '' pt-cls.sh --resume "${pretrain[@]}"
stage pt-partseg '' pt-partseg.sh --resume "${pretrain[@]}"
stage svm pt-cls eval-svm.sh --overwrite --model_path "$cls"
stage fewshot pt-cls fsl_script.sh --overwrite --model_path "$cls" "${episodes[@]}"
stage ft-mn pt-cls ft-mn.sh --resume --model_path "$cls" "${tune[@]}"
stage ft-so pt-cls ft-so.sh --resume --model_path "$cls" "${tune[@]}"
stage ft-partseg pt-partseg ft-partseg.sh --resume --model_path "$seg" "${tune[@]}"
finish scripts.pipeline_table
