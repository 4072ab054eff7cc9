"""The complete study and the ablations, queued and in order, with stand-ins."""

import importlib
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from datasets import synthetic
from tests.scripts.conftest import Shell
from tests.scripts.pueue import Pueue, StandIn, Task

# Each task, the task it needs, and its script.
STUDY = {
    "pt-cls": ("", "train_crosspoint.py"),
    "pt-partseg": ("", "train_crosspoint.py"),
    "svm": ("pt-cls", "eval_svm.py"),
    "fewshot": ("pt-cls", "eval_fewshot.py"),
    "ft-mn": ("pt-cls", "finetune_cls.py"),
    "ft-so": ("pt-cls", "finetune_cls.py"),
    "ft-partseg": ("pt-partseg", "train_partseg.py"),
}
# Of each pre-training of the ablations: encoder, weights of the losses, images a shape.
ABLATIONS = {
    "dgcnn": ("dgcnn", 1, 1, 1),
    "dgcnn_intra": ("dgcnn", 1, 0, 1),
    "dgcnn_cross": ("dgcnn", 0, 1, 1),
    "pointnet": ("pointnet", 1, 1, 1),
    "pointnet_intra": ("pointnet", 1, 0, 1),
    "pointnet_cross": ("pointnet", 0, 1, 1),
    **{f"dgcnn_{images}": ("dgcnn", 1, 1, images) for images in range(2, 6)},
}
SMOKE_DATA = "data/synthetic_smoke"


def enqueued(
    shell: Shell, queue: Pueue | StandIn, script: str, name: str, *words: str
) -> dict[str, tuple[str, Task, Namespace]]:
    """What a script of several runs NAME_* enqueues: number, task and flags by run."""
    shell.program("python", "[ $1 = - ] || echo")  # no data are made, nothing tabulated
    known = len(queue.tasks())
    done = shell.run(script, *words, QUEUE="pueue", VIRTUAL_ENV=sys.prefix)
    assert done.returncode == 0, done.stderr
    *tasks, (last, table) = list(queue.tasks().items())[known:]
    assert table.after == {number for number, _ in tasks}
    module = f"scripts.{script.removesuffix('.sh')}_table"
    assert table.words == ["python", "-m", module, name]
    # Without --full, pueue shows the last 15 lines.
    assert f"task {last}: the table, if all" in done.stdout
    assert f"pueue log --full {last}" in done.stdout
    runs = {}
    for number, task in tasks:
        assert f"task {number}: {task.label}" in done.stdout
        # NGPU=0 is the CPU, also where there are GPUs.
        assert task.words[:3] == ["env", "CUDA_VISIBLE_DEVICES=", "torchrun"]
        parser = importlib.import_module(Path(task.words[5]).stem).get_args_parser()
        args = parser.parse_args(task.words[6:])
        assert args.exp_name == task.label
        # Started again, a training continues and an evaluation is repeated.
        assert getattr(args, "resume", False) != args.overwrite
        runs[task.label.removeprefix(f"{name}_")] = (number, task, args)
    assert len(runs) == len(tasks)  # no two share a folder
    return runs


@pytest.mark.parametrize("smoke", [False, True])
def test_the_queue_holds_every_task_after_those_it_needs(smoke, shell, queue) -> None:
    first = shell.run("pt-cls.sh", QUEUE="pueue").stdout.strip()
    shell.variables |= {"PUEUE_GROUP": "gpu", "PUEUE_AFTER": first}
    name = "smoke" if smoke else "nightly"
    words = ["--smoke"] if smoke else ["--name", name, "--data_root", "a b"]
    runs = enqueued(shell, queue, "pipeline.sh", name, *words, "--seed", "7")
    assert list(runs) == list(STUDY)
    for run, (needed, script) in STUDY.items():
        _, task, args = runs[run]
        assert (task.group, task.words[5]) == ("gpu", script)
        assert task.after == {runs[needed][0] if needed else first}
        assert (args.data_root, args.seed) == (SMOKE_DATA if smoke else "a b", 7)
        if needed:
            best = f"checkpoints/{name}_{needed}/models/best_model.pth"
            assert args.model_path == best
        if None not in (args.k, args.num_points):  # otherwise those of the weights
            assert args.k <= args.num_points
    if smoke:
        (made,) = (x[2:] for x in shell.calls("python") if "synthetic" in x[1])
        made = synthetic.get_args_parser().parse_args(made)
        assert made.out == Path(SMOKE_DATA)


def test_a_failed_run_stops_only_those_that_need_it(shell: Shell) -> None:
    done = shell.run("pipeline.sh", "--name", "broken", FAIL="broken_pt-partseg")
    calls = shell.calls("torchrun")
    left_out = [run for run in STUDY if not any(f"broken_{run}" in x for x in calls)]
    assert left_out == ["ft-partseg"] and len(calls) == len(STUDY) - 1
    assert done.returncode == 1
    assert "ft-partseg: not run, because pt-partseg failed" in done.stderr
    assert "part segmentation, instance mIoU" in done.stdout  # the table comes anyway


@pytest.mark.parametrize("smoke", [False, True])
def test_every_ablation_is_what_its_name_says_and_is_judged(smoke, shell, queue):
    name = "ablation_smoke" if smoke else "ablation_study"
    words = ["--smoke"] * smoke + ["--seed", "4", "--", "--epochs", "9"]
    actual = enqueued(shell, queue, "ablations.sh", name, *words)
    assert actual.keys() == {*ABLATIONS, *(f"{run}_svm" for run in ABLATIONS)}
    for run, expected in ABLATIONS.items():
        number, task, args = actual[run]
        assert (args.imid_weight, args.cmid_weight) == expected[1:3]
        assert (args.model, args.num_images) == expected[::3]
        assert args.epochs == 9 and task.after == set()
        assert args.data_root == (SMOKE_DATA if smoke else "data")
        _, task, args = actual[f"{run}_svm"]
        assert args.model_path == f"checkpoints/{name}_{run}/models/best_model.pth"
        assert args.seed == 4 and task.after == {number}
