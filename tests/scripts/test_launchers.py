"""The launchers, with a stand-in for torchrun that records its arguments; some with
pueue's own daemon, of which soak_queue.py has the long form, with real trainings."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import eval_fewshot
from tests.scripts.conftest import ROOT, Shell, needs_pueue
from tests.scripts.pueue import INSTALLED, Pueue, StandIn, wait_for

SCRIPTS = ROOT / "scripts"
TUNING = ("ft-mn.sh", "ft-so.sh", "ft-partseg.sh")
JUDGING = ("eval-svm.sh", "fsl_script.sh")
OTHERS = ("quickstart.sh", "pipeline.sh", "ablations.sh", "slurm.sh")
LAUNCHERS = ("pt-cls.sh", "pt-partseg.sh", *JUDGING, *TUNING)


def test_these_are_all_launchers() -> None:
    paths = SCRIPTS.glob("*.sh")
    actual = {p.name for p in paths if "\n. scripts/launch.sh\n" in p.read_text()}
    assert actual == {*LAUNCHERS, *OTHERS}


@pytest.mark.parametrize("name", LAUNCHERS)
def test_flags_are_passed_on_last_and_help_is_given(name: str, shell: Shell) -> None:
    done = shell.run(name, "--seed", "7", "--exp_name", "a b")
    assert done.returncode == 0, done.stderr
    (words,) = shell.calls("torchrun")
    assert words[:2] == ["--standalone", "--nproc_per_node=1"]
    assert (ROOT / words[2]).is_file()
    assert words[-4:] == ["--seed", "7", "--exp_name", "a b"]
    output = shell.run(name, "--help").stdout
    for text in ("NGPU=n ", "QUEUE=pueue ", "PUEUE_AFTER", "Defaults here: --"):
        assert output.count(text) == 1, text
    assert output.count("usage: ") == 1  # the script's own help
    assert len(shell.calls("torchrun")) == 1


@pytest.mark.parametrize(
    ("name", "gpus", "words", "processes"),
    [
        ("pt-cls.sh", "6", [], 5),  # of the default batch of 20
        ("pt-cls.sh", "4", [], 4),
        ("pt-cls.sh", "6", ["--batch_size", "12"], 6),
        ("pt-cls.sh", "7", ["--batch_size=12"], 6),
        ("pt-cls.sh", "0", [], 1),
        ("eval-svm.sh", "7", [], 7),  # evaluation takes any number
        ("fsl_script.sh", "7", [], 7),
        ("ft-mn.sh", "", [], 3),  # all that PyTorch finds
    ],
)
def test_the_most_gpus_that_divide_the_batch(name, gpus, words, processes, shell):
    three = "class cuda:\n    def device_count():\n        return 3\n"
    (shell.folder / "torch.py").write_text(three)
    done = shell.run(name, *words, NGPU=gpus, PYTHONPATH=str(shell.folder))
    assert shell.calls("torchrun")[0][1] == f"--nproc_per_node={processes}"
    hidden = "env CUDA_VISIBLE_DEVICES= torchrun --standalone" in done.stderr
    assert hidden == (gpus == "0")
    reported = f"{processes} of {gpus} GPUs" in done.stderr
    assert reported == (gpus not in ("", "0", str(processes)))


def test_every_launcher_enqueues_one_task(shell: Shell, queue: Pueue | StandIn) -> None:
    words = ["--exp_name", "a b", "--data_root", """it's "$HOME" *\\ ü"""]
    label = {"eval-svm.sh": "eval-svm", "fsl_script.sh": "fewshot"}
    before: list[str] = []
    for name in LAUNCHERS:
        variables = {"QUEUE": "pueue", "PUEUE_GROUP": "gpu", "NGPU": "2"}
        done = shell.run(name, *words, **variables, PUEUE_AFTER=" ".join(before))
        number = done.stdout.strip()  # which the next one may wait for
        task = queue.tasks()[number]
        assert (task.group, task.folder) == ("gpu", str(ROOT))
        assert task.label == label.get(name, name.removesuffix(".sh"))
        assert task.after == {*before}
        assert (task.words[0], task.words[-4:]) == ("torchrun", words)
        before = [*before[-1:], number]
    queue.wait()  # each runs after its predecessor
    calls = shell.calls("torchrun")
    assert [call[-4:] for call in calls] == [words] * len(LAUNCHERS)
    scripts = [Path(call[2]).stem for call in calls]
    assert scripts == [
        *("train_crosspoint", "train_crosspoint", "eval_svm", "eval_fewshot"),
        *("finetune_cls", "finetune_cls", "train_partseg"),
    ]


NO_PUEUE = "error: QUEUE=pueue: no pueue is installed"
unless_pueue = pytest.mark.skipif(INSTALLED, reason="pueue is installed")


@pytest.mark.parametrize(
    ("name", "words", "variables", "message"),
    [
        ("pt-cls", ["--batch_size", "x"], {}, "--batch_size takes a positive number"),
        ("pt-cls", ["--batch_size", "0"], {}, "--batch_size takes a positive number"),
        ("pt-cls", [], {"NGPU": "all"}, "NGPU takes a number, got 'all'"),
        ("pt-cls", [], {"QUEUE": "slurm"}, "QUEUE=slurm is not known"),
        pytest.param("pt-cls", [], {"QUEUE": "pueue"}, NO_PUEUE, marks=unless_pueue),
        ("quickstart", ["--seeds", "0"], {}, "--seeds takes"),
        ("quickstart", ["--seeds", "x"], {}, "--seeds takes"),
        ("quickstart", ["--sedes"], {}, "unknown argument --sedes"),
        ("pipeline", ["--nam", "x"], {}, "--nam is not a flag of every script"),
        ("pipeline", ["--epochs", "3"], {}, "--epochs is not a flag of every script"),
        ("pipeline", ["--seed"], {}, "--seed needs a value"),
    ],
)
def test_a_wrong_flag_or_value_is_refused(name, words, variables, message, shell):
    done = shell.run(f"{name}.sh", *words, **variables)
    assert done.returncode != 0 and message in done.stderr
    assert done.returncode == 2 or "needs a value" in message  # bash's own error
    assert shell.calls("torchrun") == []


@pytest.mark.parametrize("name", TUNING)
def test_fine_tuning_has_defaults_until_others_are_given(name, shell) -> None:
    shell.run(name)
    shell.run(name, "--from_scratch")
    shell.run(name, "--eval", "--model_path", "x --from_scratch y")
    plain, scratch, judged = shell.calls("torchrun")
    assert plain.count("--model_path") == 1 and "--exp_name" in plain
    assert "--model_path" not in scratch
    assert "--exp_name" not in judged  # would be the name of the training
    assert judged.count("--model_path") == 2


def test_few_shot_has_the_published_settings_unless_others_are_given(shell) -> None:
    for words, table in (
        *(([], True), (["--seed", "2"], True)),
        *((["--k_way", "5"], False), (["--m_shot=3"], False)),
    ):
        shell.run("fsl_script.sh", *words)
        actual = shell.calls("torchrun")[-1]
        assert ("--table" in actual) == table
        args = eval_fewshot.get_args_parser().parse_args(actual[3:])
        assert args.dataset == ["modelnet40", "scanobjectnn"]


def test_an_environment_that_lacks_a_package_is_named(shell: Shell) -> None:
    wanted = "requirements-none.txt"
    (shell.folder / "requirements.txt").write_text("# pinned\nnumpy>=1.0\n")
    (shell.folder / wanted).write_text("-r requirements.txt\nno_such.package==1\n")
    command = f". {SCRIPTS}/environment.sh {wanted} && echo reached"
    done = shell.call("bash", "-c", command, VIRTUAL_ENV="/active")
    assert done.returncode == 1
    assert "environment: /active (active)" in done.stdout
    assert "the active environment lacks: no_such.package\n" in done.stderr
    assert "pip install -r requirements-none.txt" in done.stderr


def test_shellcheck_finds_nothing() -> None:
    files = [*SCRIPTS.glob("*.sh"), ROOT / "data" / "download_data.sh"]
    command = ["shellcheck", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def pueue(shell: Shell) -> Iterator[Pueue]:
    made = Pueue(shell.variables)
    shell.variables = {**made.variables, "QUEUE": "pueue"}
    yield made
    made.close()


@needs_pueue
def test_a_group_of_two_slots_runs_two_at_once_and_keeps_the_output(shell, pueue):
    hold = shell.folder / "hold"
    hold.touch()
    names = ("ft-mn.sh", "ft-so.sh", "ft-partseg.sh")
    numbers = [shell.run(x, PUEUE_GROUP="gpu").stdout.strip() for x in names]
    wait_for(lambda: len(shell.calls("torchrun")) == 2, 20)
    assert [*pueue.states().values()] == ["Running", "Running", "Queued"]
    hold.unlink()
    pueue.wait()
    assert {*pueue.states().values()} == {"Success"}
    log = pueue("log", "--full", numbers[2])
    assert "run: --standalone --nproc_per_node=1 train_partseg.py --exp_name" in log


@needs_pueue
def test_a_failed_task_stops_those_that_need_it(shell: Shell, pueue: Pueue) -> None:
    failing = {"FAIL": "broken_pt-partseg", "PUEUE_GROUP": "gpu"}
    done = shell.run("pipeline.sh", "--name", "broken", **failing)
    assert done.returncode == 0, done.stderr
    pueue.wait()
    ended = {name.removeprefix("broken_"): x for name, x in pueue.states().items()}
    stopped = {"ft-partseg": "DependencyFailed", "table": "DependencyFailed"}
    succeeded = dict.fromkeys(("pt-cls", "svm", "fewshot", "ft-mn", "ft-so"), "Success")
    assert ended == {**succeeded, "pt-partseg": "Failed", **stopped}


@needs_pueue
def test_a_task_that_pueue_refuses_says_what_to_do(shell: Shell, pueue: Pueue) -> None:
    done = shell.run("pt-cls.sh", PUEUE_GROUP="none")
    assert done.returncode == 2 and done.stdout == ""
    assert "Group none" in done.stderr
    assert "a group is made by 'pueue group add NAME'" in done.stderr
    pueue.process.kill()
    pueue.process.wait()
    for name in ("pt-cls.sh", "pipeline.sh"):
        done = shell.run(name)
        assert done.returncode == 2 and done.stdout == ""
        assert done.stderr.endswith("a group is made by 'pueue group add NAME'\n")
