"""The Slurm job, with stand-ins for Slurm's commands and for torchrun."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import train_crosspoint

ROOT = Path(__file__).parents[2]
JOB = ROOT / "scripts" / "slurm.sh"
NODES = ("node-a", "node-b")
STAND_INS = {
    "scontrol": r"""
printf '%s\n' "$*" >>"$LOGS/scontrol"
if [ "$1" = show ]; then printf 'node-a\nnode-b\n'; fi
""",
    # The step on both nodes, one after the other; its highest code, as srun has it.
    "srun": r"""
printf '%s\n' "$@" >"$LOGS/srun"
env >"$LOGS/environment"
shift
highest=0
for id in 0 1; do
  code=0
  [ $id = 0 ] && name=node-a || name=node-b
  SLURM_NODEID=$id SLURMD_NODENAME=$name "$@" || code=$?
  [ "$code" -le "$highest" ] || highest=$code
done
exit "$highest"
""",
    "torchrun": r"""
printf '%s\n' "$@" >"$LOGS/torchrun.$SLURM_NODEID"
if [ -n "${SIGNAL:-}" ] && [ "$SLURM_NODEID" = 0 ]; then
  kill -TERM "$PPID"
  sleep 0.3
  echo written >"$LOGS/checkpoint"
fi
exit "${CODE:-0}"
""",
}


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """What the stand-ins were given."""
    (tmp_path / "logs").mkdir()
    return tmp_path / "logs"


@pytest.fixture
def submit(tmp_path: Path, logs: Path):
    """Run the job as Slurm does: a copy of the script, in another folder."""
    for name, body in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (tmp_path / name).chmod(0o755)
    copy = tmp_path / "slurm_script"
    shutil.copy(JOB, copy)

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess:
        job = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "node-[a-b]"}
        job["SLURM_SUBMIT_DIR"] = str(ROOT)
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {**os.environ, **job, "PATH": path, **variables}
        return subprocess.run(
            ["bash", str(copy), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**variables, "LOGS": str(logs), "VIRTUAL_ENV": sys.prefix},
            timeout=60,
        )

    return run


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def test_one_torchrun_a_node_meets_on_the_first(submit, logs: Path) -> None:
    words = ("--batch_size", "24", "--exp_name", "a b")
    done = submit("train_crosspoint.py", *words, SLURM_GPUS_ON_NODE="4")
    assert done.returncode == 0, done.stderr
    for node, name in enumerate(NODES):
        *options, a, b, c, d, resume = lines(logs / f"torchrun.{node}")
        assert (a, b, c, d) == words and resume == "--resume"
        assert options == [
            f"--rdzv_conf=is_host={int(node == 0)}",
            f"--local_addr={name}",
            "--nnodes=2",
            "--nproc_per_node=4",
            "--rdzv_backend=c10d",
            "--rdzv_endpoint=node-a:24711",
            "--rdzv_id=4711",
            "train_crosspoint.py",
        ]
    assert lines(logs / "srun")[0] == "--kill-on-bad-exit=0"
    assert lines(logs / "scontrol") == ["show hostnames node-[a-b]"]


def test_torchrun_and_the_script_know_what_they_are_given(submit, logs: Path) -> None:
    from torch.distributed.run import get_args_parser

    submit("train_crosspoint.py", "--seed", "2", SLURM_GPUS_ON_NODE="2")
    args = get_args_parser().parse_args(lines(logs / "torchrun.1"))
    assert (args.nnodes, args.nproc_per_node, args.rdzv_id) == ("2", "2", "4711")
    parser = train_crosspoint.get_args_parser()
    assert parser.parse_args(args.training_script_args).resume


@pytest.mark.parametrize(
    ("variables", "processes"),
    [
        ({}, 1),
        ({"SLURM_GPUS_ON_NODE": "8"}, 8),
        ({"SLURM_GPUS_ON_NODE": "8", "NGPU": "3"}, 3),
        ({"SLURM_GPUS_ON_NODE": "8", "NGPU": "0"}, 1),
    ],
)
def test_processes_of_a_node(variables, processes, submit, logs: Path) -> None:
    submit("train_partseg.py", CUDA_VISIBLE_DEVICES="0,1", **variables)
    assert f"--nproc_per_node={processes}" in lines(logs / "torchrun.0")
    visible = "" if variables.get("NGPU") == "0" else "0,1"
    assert f"CUDA_VISIBLE_DEVICES={visible}" in lines(logs / "environment")


def test_what_slurm_does_not_hand_on(submit, logs: Path) -> None:
    submit("finetune_cls.py", SLURM_CPUS_PER_TASK="12")
    found = lines(logs / "environment")
    assert "SRUN_CPUS_PER_TASK=12" in found
    assert "TORCH_ELASTIC_SHUTDOWN_TIMEOUT=120" in found


def test_a_signal_waits_for_the_checkpoint_and_requeues(submit, logs: Path) -> None:
    done = submit("train_crosspoint.py", SIGNAL="yes", CODE="1")
    assert done.returncode == 128 + signal.SIGTERM, done.stderr
    assert (logs / "checkpoint").is_file()
    assert lines(logs / "scontrol")[1:] == ["requeue 4711"]


@pytest.mark.parametrize(
    ("script", "variables", "code"),
    [
        ("train_crosspoint.py", {"CODE": "1"}, 1),  # an error
        ("train_crosspoint.py", {"CODE": "2"}, 2),
        ("train_crosspoint.py", {"SIGNAL": "yes", "CODE": "0"}, 0),  # it was done
        ("eval_svm.py", {"SIGNAL": "yes", "CODE": "1"}, 143),  # would start anew
    ],
)
def test_nothing_else_requeues(script, variables, code, submit, logs: Path) -> None:
    done = submit(script, **variables)
    assert done.returncode == code, done.stderr
    assert len(lines(logs / "scontrol")) == 1


def test_an_evaluation_has_nothing_to_resume(submit, logs: Path) -> None:
    submit("eval_svm.py", "--model_path", "none", "--overwrite")
    end = ["--model_path", "none", "--overwrite"]
    assert lines(logs / "torchrun.0")[-4:] == ["eval_svm.py", *end]
    submit("finetune_cls.py", "--model_path", "w", "--overwrite", "--eval")
    end = ["--model_path", "w", "--overwrite", "--eval"]
    assert lines(logs / "torchrun.0")[-5:] == ["finetune_cls.py", *end]


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
def test_what_cannot_be_is_refused(
    words, variables, message, submit, logs: Path
) -> None:
    done = submit(*words, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert not (logs / "srun").exists()


def test_the_signal_goes_to_the_steps_and_leaves_time_for_a_checkpoint() -> None:
    options = re.findall(r"^#SBATCH (--\S+)$", JOB.read_text(), re.M)
    found = dict(word.lstrip("-").partition("=")[::2] for word in options)
    name, seconds = found["signal"].split("@")
    assert name == "TERM"  # not B:TERM, which the batch shell alone would get
    (wait,) = re.findall(r"SHUTDOWN_TIMEOUT:-(\d+)", JOB.read_text())
    assert int(seconds) > int(wait)
    assert "requeue" in found and found["ntasks-per-node"] == "1"


def test_help_needs_no_job() -> None:
    script = Path(__file__).parents[2] / "scripts" / "slurm.sh"
    done = subprocess.run(["bash", script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sbatch --nodes=2" in done.stdout and "#" not in done.stdout
