#!/usr/bin/env bash
# The paper's ablations: DGCNN and PointNet, by the intra-modal loss, the cross-modal loss and
# both; DGCNN with one to five images a shape. Each is pre-trained and evaluated by linear SVM.
#
#   scripts/ablations.sh [--name NAME] [FLAGS] [-- FLAGS OF train_crosspoint.py]
#                                       FLAGS are those of scripts/pipeline.sh
#   scripts/ablations.sh --smoke        the same, small, on synthetic data: minutes on 2 cores
#   QUEUE=pueue scripts/ablations.sh    enqueue all of it, each task after those it needs,
#                                       the first after those of PUEUE_AFTER
#
# Runs are checkpoints/NAME_* (default: ablation_study). Started again, it resumes the trainings
# and repeats the evaluations. With -- --objective multiview all of them are multi-view, after
# MM-Point. NGPU, PUEUE_GROUP: see scripts/launch.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/launch.sh
. scripts/stages.sh

study_flags ablation_study "$@"
small=()
[ -z "$smoke" ] ||
  small=(--image_encoder resnet18 --image_size 32 --epochs 1 --batch_size 16 --svm_every 0)

ablation() { # ablation RUN FLAGS...
  local best=checkpoints/${name}_$1/models/best_model.pth
  stage "$1" '' pt-cls.sh --resume "${small[@]}" "${@:2}" "${rest[@]}"
  stage "$1_svm" "$1" eval-svm.sh --overwrite --model_path "$best"
}

for encoder in dgcnn pointnet; do
  ablation "$encoder" --model "$encoder"
  ablation "${encoder}_intra" --model "$encoder" --cmid_weight 0
  ablation "${encoder}_cross" --model "$encoder" --imid_weight 0
done
for images in 2 3 4 5; do
  ablation "dgcnn_$images" --model dgcnn --num_images "$images"
done
finish scripts.ablations_table
