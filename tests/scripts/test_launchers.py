"""The launchers, with stand-ins for torchrun and pueue that record their arguments."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import eval_fewshot

SCRIPTS = Path(__file__).parents[2] / "scripts"
LAUNCHERS = (
    *("pt-cls.sh", "pt-partseg.sh", "eval-svm.sh", "fsl_script.sh"),
    *("ft-mn.sh", "ft-so.sh", "ft-partseg.sh"),
)


@pytest.fixture
def start(tmp_path: Path):
    """Run a launcher; returns its process and the recorded lines of arguments.

    A variable that is given as "" is not set.
    """
    for name in ("torchrun", "pueue"):
        stand_in = tmp_path / name
        stand_in.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" END >> {tmp_path}/{name}.log\necho 17\n'
        )
        stand_in.chmod(0o755)

    def run(name: str, *words: str, **variables: str):
        path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, "NGPU": "0", **variables}
        done = subprocess.run(
            ["bash", str(SCRIPTS / name), *words],
            capture_output=True,
            text=True,
            env={key: value for key, value in variables.items() if value},
        )
        calls = {}
        for program in ("torchrun", "pueue"):
            log = tmp_path / f"{program}.log"
            text = log.read_text() if log.exists() else ""
            calls[program] = [c.split("\n")[:-1] for c in text.split("END\n")[:-1]]
        return done, calls

    return run


def test_these_are_all_launchers() -> None:
    found = {
        path.name
        for path in SCRIPTS.glob("*.sh")
        if "\n. scripts/launch.sh\n" in path.read_text()
    }
    assert found == {*LAUNCHERS, "pipeline.sh"}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_flags_are_passed_on_last(name: str, start) -> None:
    done, calls = start(name, "--seed", "7", "--exp_name", "a b")
    assert done.returncode == 0, done.stderr
    assert calls["torchrun"]
    for words in calls["torchrun"]:
        assert words[:2] == ["--standalone", "--nproc_per_node=1"]
        assert (SCRIPTS.parent / words[2]).is_file()
        assert words[-4:] == ["--seed", "7", "--exp_name", "a b"]


@pytest.mark.parametrize(
    ("gpus", "words", "processes"),
    [
        ("6", [], 5),  # of the default batch of 20
        ("4", [], 4),
        ("6", ["--batch_size", "12"], 6),
        ("7", ["--batch_size=12"], 6),
        ("0", [], 1),
    ],
)
def test_the_most_gpus_that_divide_the_batch(gpus, words, processes, start) -> None:
    done, calls = start("pt-cls.sh", *words, NGPU=gpus)
    assert calls["torchrun"][0][1] == f"--nproc_per_node={processes}"
    hidden = "env CUDA_VISIBLE_DEVICES= torchrun --standalone" in done.stderr
    assert hidden == (gpus == "0")
    told = f"{processes} of {gpus} GPUs" in done.stderr
    assert told == (gpus not in ("0", str(processes)))


@pytest.mark.parametrize(("gpus", "processes"), [("", 3), ("2", 2), ("0", 1)])
def test_all_gpus_that_torch_finds_unless_told(
    gpus, processes, start, tmp_path: Path
) -> None:
    stand_in = "class cuda:\n    def device_count():\n        return 3\n"
    (tmp_path / "torch.py").write_text(stand_in)
    done, calls = start("ft-mn.sh", NGPU=gpus, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    (words,) = calls["torchrun"]
    assert words[1] == f"--nproc_per_node={processes}"


def test_the_queue_gets_group_label_and_one_quoted_line(start) -> None:
    done, calls = start(
        *("pt-cls.sh", "--exp_name", "a b"),
        **{"QUEUE": "pueue", "PUEUE_GROUP": "gpu", "PUEUE_AFTER": "3 5", "NGPU": "2"},
    )
    assert done.stdout == "17\n"  # the task's number, for the next one to wait for
    assert calls["torchrun"] == []
    (words,) = calls["pueue"]
    line = words[words.index("--") + 1 :]
    assert len(line) == 1
    command = shlex.split(line[0])
    assert command[:2] == ["torchrun", "--standalone"]
    assert command[-1] == "a b"
    options = words[: words.index("--")]
    for pair in (
        *(["--group", "gpu"], ["--label", "pt-cls"], ["--after", "3"]),
        *(["--after", "5"], ["--working-directory", str(SCRIPTS.parent)]),
    ):
        place = [i for i in range(len(options) - 1) if options[i : i + 2] == pair]
        assert len(place) == 1, pair


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["--batch_size", "x"], {}),
        (["--batch_size", "0"], {}),
        ([], {"NGPU": "all"}),
        ([], {"QUEUE": "slurm"}),
    ],
)
def test_what_is_not_understood_is_refused(words, variables, start) -> None:
    done, calls = start("pt-cls.sh", *words, **variables)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert calls == {"torchrun": [], "pueue": []}


def test_a_queue_without_pueue_is_refused(start, tmp_path: Path) -> None:
    (tmp_path / "pueue").unlink()
    if shutil.which("pueue"):
        pytest.skip("pueue is installed here")
    done, calls = start("pt-cls.sh", QUEUE="pueue")
    assert done.returncode == 2
    assert done.stderr.startswith("error: QUEUE=pueue: no pueue is installed")
    assert calls["torchrun"] == []


@pytest.mark.parametrize("name", LAUNCHERS)
def test_help_says_what_a_launcher_adds(name: str, start) -> None:
    done, calls = start(name, "--help")
    assert done.returncode == 0, done.stderr
    for said in (
        "NGPU=n ",
        "QUEUE=pueue ",
        "PUEUE_AFTER",
        "Defaults here: --",
        "usage: ",
    ):
        assert done.stdout.count(said) == 1, said
    assert calls == {"torchrun": [], "pueue": []}


@pytest.mark.parametrize("name", ["ft-mn.sh", "ft-so.sh", "ft-partseg.sh"])
def test_fine_tuning_starts_from_weights_or_from_scratch(name: str, start) -> None:
    _, calls = start(name)
    assert calls["torchrun"][0].count("--model_path") == 1
    _, calls = start(name, "--from_scratch")
    assert "--model_path" not in calls["torchrun"][1]


def test_the_published_settings_unless_others_are_given(start) -> None:
    for words, table in (
        *(([], True), (["--seed", "2"], True)),
        *((["--k_way", "5"], False), (["--m_shot=3"], False)),
    ):
        _, calls = start("fsl_script.sh", *words)
        found = calls["torchrun"][-1]
        assert ("--table" in found) == table
        assert eval_fewshot.get_args_parser().parse_args(found[3:]).dataset == [
            *("modelnet40", "scanobjectnn")
        ]


def test_an_evaluation_is_not_called_as_the_training(start) -> None:
    for name in ("ft-mn.sh", "ft-so.sh", "ft-partseg.sh"):
        _, calls = start(name, "--eval", "--model_path", "x --from_scratch y")
        assert "--exp_name" not in calls["torchrun"][-1]
        assert calls["torchrun"][-1].count("--model_path") == 2


def test_an_evaluation_takes_any_number_of_gpus(start) -> None:
    for name in ("eval-svm.sh", "fsl_script.sh"):
        done, calls = start(name, NGPU="7")
        assert calls["torchrun"][-1][1] == "--nproc_per_node=7", done.stderr


def test_shellcheck_finds_nothing() -> None:
    files = [*SCRIPTS.glob("*.sh"), SCRIPTS.parent / "data" / "download_data.sh"]
    done = subprocess.run(
        ["shellcheck", *map(str, files)],
        capture_output=True,
        text=True,
        cwd=SCRIPTS.parent,
    )
    assert done.returncode == 0, done.stdout
