"""The Slurm job, with stand-ins for Slurm's commands and for torchrun."""

import re
import shutil
import subprocess
import sys
from datetime import datetime, time
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser as torchrun_parser

import train_crosspoint
from tests.scripts.conftest import ROOT, Shell

JOB = ROOT / "scripts" / "slurm.sh"
NODES = ("node-a", "node-b")
STOPPED = {"SIGNAL": "1", "CODE": "1"}
PROGRAMS = {
    "scontrol": """
case "$1 ${2:-}" in
  "show hostnames") printf 'node-a\\nnode-b\\n' ;;
  "show config") echo 'AuthInfo = socket=x,cred_expire=60' ;;
  "show job")
    echo "   Requeue=1 Restarts=$(grep -c ^requeue $LOGS/scontrol.calls) Reboot=0"
    echo "   StdOut=$LOGS/out"
    ;;
esac
""",
    # The step on both nodes, one after the other; the highest code, as with srun.
    "srun": """
env >"$LOGS/environment"
shift
highest=0
for id in 0 1; do
  code=0
  [ $id = 0 ] && name=node-a || name=node-b
  SLURM_NODEID=$id SLURMD_NODENAME=$name "$@" || code=$?
  [ "$code" -le "$highest" ] || highest=$code
done
[ -z "${CANCEL:-}" ] || kill -TERM $PPID # of the job's shell
exit "$highest"
""",
    "torchrun": """
if [ -n "${SIGNAL:-}" ] && [ "$SLURM_NODEID" = 0 ]; then
  kill -TERM "$PPID"
  sleep 0.3
  echo written >"$LOGS/checkpoint"
fi
exit "${CODE:-0}"
""",
}


class Slurm(Shell):
    def submit(self, *words: str, **variables: str) -> subprocess.CompletedProcess:
        """Run the job as Slurm does: a copy of the script, in another folder."""
        copy = shutil.copy(JOB, self.folder / "slurm_script")
        job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]"}
        job |= {"SLURM_SUBMIT_DIR": str(ROOT), "LOGS": str(self.folder)}
        (self.folder / "run.log").write_text("first\nstopped after step 9\n")
        (self.folder / "out").write_text(f"model x\nresults  {self.folder}\n")
        return self.run(copy, *words, **job | {"VIRTUAL_ENV": sys.prefix} | variables)


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    slurm = Slurm(tmp_path)
    for name, body in PROGRAMS.items():
        slurm.program(name, body)
    return slurm


def test_one_torchrun_a_node_meets_on_the_first(slurm: Slurm) -> None:
    words = ["--batch_size", "24", "--exp_name", "a b", "--resume"]
    gpus = {"SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "12"}
    done = slurm.submit("train_crosspoint.py", *words[:-1], **gpus)
    assert done.returncode == 0, done.stderr
    calls = slurm.calls("torchrun")
    for node, (name, call) in enumerate(zip(NODES, calls, strict=True)):
        assert call == [
            f"--rdzv_conf=is_host={int(node == 0)}",
            f"--local_addr={name}",
            "--nnodes=2",
            "--nproc_per_node=4",
            "--rdzv_backend=c10d",
            "--rdzv_endpoint=node-a:24711",
            "--rdzv_id=4711",
            "train_crosspoint.py",
            *words,
        ]
    assert slurm.calls("srun")[0][0] == "--kill-on-bad-exit=0"
    assert slurm.calls("scontrol") == [["show", "hostnames", "node-[a-b]"]]
    actual = (slurm.folder / "environment").read_text().splitlines()
    assert "SRUN_CPUS_PER_TASK=12" in actual  # srun does not take it from the job
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120" in actual

    args = torchrun_parser().parse_args(calls[1])
    train_crosspoint.get_args_parser().parse_args(args.training_script_args)


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 1),
        ({"SLURM_GPUS_ON_NODE": "8"}, 8),
        ({"SLURM_GPUS_ON_NODE": "8", "NGPU": "3"}, 3),
        ({"SLURM_GPUS_ON_NODE": "8", "NGPU": "0"}, 1),
    ],
)
def test_processes_of_a_node(variables, processes, slurm: Slurm) -> None:
    slurm.submit("train_partseg.py", CUDA_VISIBLE_DEVICES="0,1", **variables)
    assert f"--nproc_per_node={processes}" in slurm.calls("torchrun")[0]
    visible = "" if variables.get("NGPU") == "0" else "0,1"
    actual = (slurm.folder / "environment").read_text().splitlines()
    assert f"CUDA_VISIBLE_DEVICES={visible}" in actual


@pytest.mark.parametrize(
    ("script", "variables", "code", "message"),
    [
        ("train_crosspoint.py", {"CODE": "2"}, 2, "failed with exit status 2, not"),
        ("train_crosspoint.py", {"SIGNAL": "1"}, 0, ""),  # it had finished
        # It would start from the beginning.
        ("eval_svm.py", STOPPED, 143, "stopped by a time limit or"),
        ("train_partseg.py", STOPPED, 143, "back in the queue"),
        # Slurm would start a cancelled job again, if it is asked to.
        ("train_partseg.py", {**STOPPED, "CANCEL": "1"}, 143, "cancel"),
    ],
)
def test_only_a_stopped_training_is_requeued(script, variables, code, message, slurm):
    done = slurm.submit(script, **variables)
    assert done.returncode == code, done.stderr
    requeued = message == "back in the queue"
    calls = [call for call in slurm.calls("scontrol") if call[0] != "show"]
    assert calls == [["requeue", "4711"]] * requeued
    # The job has waited for the checkpoint.
    assert (slurm.folder / "checkpoint").is_file() == ("SIGNAL" in variables)
    last = done.stdout.rsplit("\n\n")[-1]
    assert message in last and (code == 0 or "stopped after step 9" in last)
    if requeued:
        (hour,) = re.findall(r"starts again at (\S+) or later", last)
        now = datetime.now()
        wait = datetime.combine(now, time.fromisoformat(hour)) - now
        assert 50 < wait.seconds <= 60  # also at midnight


@pytest.mark.parametrize("words", [["eval_svm.py"], ["finetune_cls.py", "--eval"]])
def test_an_evaluation_has_nothing_to_resume(words, slurm: Slurm) -> None:
    words = [*words, "--model_path", "w", "--overwrite"]
    slurm.submit(*words)
    assert slurm.calls("torchrun")[0][-len(words) :] == words


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ((), {}, "expected one of the repository's scripts, got ''"),
        (("train.py",), {}, "expected one of the repository's scripts, got 'train.py'"),
        (("eval_svm.py",), {"SLURM_JOB_ID": ""}, "this is a job: sbatch"),
        (("eval_svm.py",), {"SLURM_SUBMIT_DIR": "/"}, "no eval_svm.py in /"),
        (("eval_svm.py",), {"NGPU": "all"}, "NGPU takes a number, got 'all'"),
        (("train_partseg.py", "--overwrite"), {}, "--overwrite would delete the run"),
    ],
)
def test_a_wrong_job_is_refused(words, variables, message, slurm: Slurm) -> None:
    done = slurm.submit(*words, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert slurm.calls("srun") == []
    done = slurm.run("slurm.sh", "--help")  # needs no job
    assert "sbatch --nodes=2" in done.stdout and "#" not in done.stdout


def test_the_signal_goes_to_the_steps_and_leaves_time_for_a_checkpoint() -> None:
    options = re.findall(r"^#SBATCH (--\S+)$", JOB.read_text(), re.M)
    actual = dict(word.lstrip("-").partition("=")[::2] for word in options)
    name, seconds = actual["signal"].split("@")
    assert name == "TERM"  # not B:TERM, which the batch shell alone would get
    (wait,) = re.findall(r"SHUTDOWN_TIMEOUT:-(\d+)", JOB.read_text())
    assert int(seconds) > int(wait)
    assert "requeue" in actual and actual["ntasks-per-node"] == "1"
