#!/usr/bin/env bash
# Runs one script of the repository on a Slurm cluster, on one node or several. Submit it
# from the repository's folder, which all nodes must share.
#
#   sbatch --nodes=2 --gpus-per-node=4 --cpus-per-task=32 --time=24:00:00 \
#       scripts/slurm.sh train_crosspoint.py --batch_size 24 [FLAGS]
#
# A training that reaches the time limit, or is preempted, writes a checkpoint and returns to
# the queue with the same job number; it continues because --resume is always passed.
#   NGPU=n    use n GPUs of a node instead of all (0: one process a node, on the CPU)
#
#SBATCH --job-name=crosspoint
#SBATCH --output=slurm-%j.out
#SBATCH --open-mode=append
#SBATCH --ntasks-per-node=1
#SBATCH --requeue
# Seconds before the limit. Without a B: Slurm signals every process of the step, and not
# this shell.
#SBATCH --signal=TERM@240
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
if [ -z "${SLURM_JOB_ID:-}" ]; then
  echo "error: this is a job: sbatch [OPTIONS] scripts/slurm.sh SCRIPT [FLAGS]" >&2
  exit 2
fi
cd "$SLURM_SUBMIT_DIR" # Slurm runs a copy of this file
script=${1:-}
case $script in
  train_crosspoint.py | finetune_cls.py | train_partseg.py) resume=(--resume) ;;
  eval_svm.py | eval_fewshot.py) resume=() ;;
  *)
    echo "error: expected one of the repository's scripts, got '$script'" >&2
    exit 2
    ;;
esac
shift
if [ ! -f "$script" ]; then
  echo "error: no $script in $PWD: submit from the repository's folder" >&2
  exit 2
fi
. scripts/launch.sh
if given --eval "$@"; then resume=(); fi # an evaluation writes no checkpoint to resume from
if given --overwrite "$@" && [ ${#resume[@]} -gt 0 ]; then
  echo "error: --overwrite would delete the run when the job is requeued: delete its" >&2
  echo "       folder, or choose another --exp_name" >&2
  exit 2
fi
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] && [ -e .venv/bin/activate ]; then
  # shellcheck disable=SC1091  # made by scripts/quickstart.sh
  . .venv/bin/activate
fi

gpus=${NGPU:-${SLURM_GPUS_ON_NODE:-0}}
case $gpus in '' | *[!0-9]*)
  echo "error: NGPU takes a number, got '$gpus'" >&2
  exit 2
  ;;
esac
# Hides GPUs that are not wanted.
[ "${NGPU:-}" != 0 ] || export CUDA_VISIBLE_DEVICES=
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Two jobs may share a node: each has a port of its own.
endpoint=${nodes[0]}:$((20000 + SLURM_JOB_ID % 10000))
words=("--nnodes=${#nodes[@]}" "--nproc_per_node=$((gpus > 1 ? gpus : 1))"
  --rdzv_backend=c10d "--rdzv_endpoint=$endpoint" "--rdzv_id=$SLURM_JOB_ID"
  "$script" "$@" ${resume[@]+"${resume[@]}"})

# torchrun kills its ranks 30 s after a SIGTERM; newer releases read this instead.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
# srun does not take over the batch job's number of CPUs.
[ -z "${SLURM_CPUS_PER_TASK:-}" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK

# Runs on each node. The first one hosts the rendezvous; nodes have the names that Slurm
# uses. torchrun gets the signal too, but ends with an ordinary error: this shell turns that
# into 143, which srun passes on as the highest of the nodes' exit codes.
# shellcheck disable=SC2016  # expanded on the node
on_node='trap "stopped=yes" TERM
torchrun "--rdzv_conf=is_host=$((SLURM_NODEID == 0))" "--local_addr=$SLURMD_NODENAME" "$@" &
wait $! && exit
status=$?
[ -n "${stopped:-}" ] || exit "$status"
wait $! && exit
exit 143'
printf '%q ' torchrun "${words[@]}"
printf 'on %s\n' "${nodes[*]}"
# At a time limit Slurm signals the step alone. If it signals this shell too, it has decided
# what becomes of the job: scancel, scontrol requeue, preemption without grace time.
trap 'decided=yes' TERM
status=0
# A node that finishes early must not end one that is still writing.
srun --kill-on-bad-exit=0 bash -c "$on_node" torchrun "${words[@]}" || status=$?
[ "$status" -ne 0 ] || exit 0
if [ "$status" -eq 143 ] && [ ${#resume[@]} -gt 0 ] && [ -z "${decided:-}" ]; then
  trap '' TERM # requeueing ends this shell, which has last words
  scontrol requeue "$SLURM_JOB_ID" || true
fi

# The end of the job's log, below torchrun's traceback.
job=$(scontrol show job "$SLURM_JOB_ID") || true
restarts=$(sed -n 's/.* Restarts=\([0-9]*\).*/\1/p' <<<"$job")
log=$(sed -n 's/^ *StdOut=//p' <<<"$job")
again="The same sbatch command continues the run."
[ ${#resume[@]} -gt 0 ] || again="Submit it again with --overwrite."
echo
if [ "${restarts:-0}" -gt "${SLURM_RESTART_COUNT:-0}" ]; then
  # A requeued job waits until the credentials of its first start have expired.
  expire=$(scontrol show config | sed -n 's/^AuthInfo.*cred_expire=\([0-9]*\).*/\1/p')
  echo "Job $SLURM_JOB_ID: stopped by a time limit, preemption or requeue; back in the queue."
  echo "It starts again at $(date -d "${expire:-120} seconds" +%T) or later:" \
    "squeue --start --job $SLURM_JOB_ID"
elif [ -n "${decided:-}" ]; then
  echo "Job $SLURM_JOB_ID: cancelled or out of time, not requeued. $again"
elif [ "$status" -eq 143 ]; then
  echo "Job $SLURM_JOB_ID: stopped by a time limit or preemption, not requeued. $again"
else
  echo "Job $SLURM_JOB_ID: failed with exit status $status, not requeued."
  echo "The error is above torchrun's traceback."
fi
folder=$(sed -n 's/^results  *//p' "$log" | tail -n 1) || true
[ ! -f "$folder/run.log" ] ||
  echo "Log: $folder/run.log, which ends: $(tail -n 1 "$folder/run.log")"
exit "$status"
