"""The documentation's commands: every one is understood, and small ones are run."""

from __future__ import annotations

import importlib
import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.run import get_args_parser as torchrun_parser

import eval_fewshot
from models import point_encoder
from tests.conftest import write_modelnet
from utils.parallel import distributed

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = ("README.md", "data/README.md", "benchmarks/README.md")
SCRIPTS = {path.name: path.stem for path in ROOT.glob("*.py")}
PROGRAMS = {"python", "torchrun", "bash", "sbatch", "wandb", "pip", "papermill"}
FOREIGN = {"wandb", "pip", "papermill"}  # not ours to check
OF_SBATCH = {"--nodes", "--gpus-per-node", "--cpus-per-task", "--time"}


def blocks(text: str) -> Iterator[str]:
    """Indented blocks, and fenced ones that are not output or BibTeX."""
    for block in re.findall(r"(?:^    .*\n)+", text, re.M):
        yield re.sub("^    ", "", block, flags=re.M)
    yield from re.findall(r"^```(?:bash|sh|shell)\n(.*?)^```", text, re.M | re.S)


def is_command(line: str) -> bool:
    line = re.sub(r"^(\w+=[^ (]* )*(\w+=\$\()?(\w+=[^ ]* )*", "", line)
    first = line.split()[0]
    return first in PROGRAMS or bool(re.match(r"scripts/\S+\.sh$", first.strip(")")))


def words_of(line: str) -> list[str]:
    """Words of a command, without variables before it and what follows ``&&``."""
    line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line.split(" && ")[0])
    words = shlex.split(line, comments=True)
    while re.match(r"[A-Z_]+=", words[0]):
        words.pop(0)
    return words


def commands(document: str) -> tuple[list[list[str]], list[list[str]]]:
    """Those of blocks, and those in the middle of a line."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if is_command(line):
                found.append(words_of(line))
            else:  # a tree of files
                assert " --" not in line, f"{document}: not understood: {line}"
    spans = re.findall(r"`([^`\n]+)`", text)
    inline = [words_of(span) for span in spans if is_command(span) and " " in span]
    return found, [words for words in inline if not {"...", "NAME"} & {*words}]


def in_docstring(script: str) -> list[list[str]]:
    """The commands that a script's ``--help`` shows."""
    text = importlib.import_module(SCRIPTS[script]).__doc__ or ""
    lines = text.replace("\\\n", " ").splitlines()
    found = [re.search(r"\b(python|torchrun) .*\.py.*", line) for line in lines]
    return [shlex.split(match[0].replace("=N ", "=2 ")) for match in found if match]


def understand(words: list[str]) -> None:
    """Parse a command with the parser of what it starts."""
    program, *rest = words
    if program in FOREIGN:
        return
    if program == "torchrun":
        args = torchrun_parser().parse_args(rest)
        rest = [args.training_script, *args.training_script_args]
    elif program == "sbatch":
        place = rest.index("scripts/slurm.sh")
        assert {word.split("=")[0] for word in rest[:place]} <= OF_SBATCH
        assert (ROOT / rest[place]).is_file()
        rest = rest[place + 1 :]
    elif program == "bash" or program.startswith("scripts/"):
        path = ROOT / (rest.pop(0) if program == "bash" else program)
        assert os.access(path, os.X_OK) or program == "bash", path
        text = path.read_text(encoding="utf-8")
        if passed_on := re.search(r'-m (\S+) "\$@"', text):
            understand(["python", "-m", passed_on[1], *rest])
            return
        for flag in (word for word in rest if word.startswith("--")):
            assert re.search(rf"{flag}\b[^\n]*\)|{flag} \|", text), f"{path}: {flag}"
        return
    if rest[0] == "-m":
        module = importlib.import_module(rest[1])
        if rest[-1] == "--help" or not hasattr(module, "get_args_parser"):
            return
        rest = rest[2:]
    else:
        module = importlib.import_module(SCRIPTS[rest[0]])
        rest = rest[1:]
    module.get_args_parser().parse_args(rest)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_understood(document: str) -> None:
    found, inline = commands(document)
    assert found
    for words in (*found, *inline):
        try:
            understand(words)
        except SystemExit:
            pytest.fail(f"{document}: {shlex.join(words)}")


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_every_command_of_a_script_s_help_is_understood(script: str) -> None:
    found = in_docstring(script)
    assert len(found) >= 2
    for words in found:
        understand(words)


def test_what_is_looked_at() -> None:
    found, inline = commands("README.md")
    lines = [" ".join(words) for words in (*found, *inline)]
    for start in (
        *("scripts/quickstart.sh", "python train_crosspoint.py --data_root"),
        *("torchrun --nnodes=2", "scripts/pt-cls.sh", "scripts/eval-svm.sh"),
        *("sbatch --nodes=2", "wandb sync", "python -m datasets.verify --data_root"),
    ):
        assert any(line.startswith(start) for line in lines), start


@pytest.mark.parametrize(
    "line",
    [
        "python eval_svm.py --model_path a --no_such_flag",
        "python eval_svm.py --model_path a --dataset shapenet",
        "torchrun --nprocs=2 eval_svm.py --model_path a",
        "torchrun --nproc_per_node=2 eval_svm.py",
        "python -m datasets.verify --datasets modelnet40",
    ],
)
def test_a_mistake_is_seen(line: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        understand(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "scripts/pipeline.sh --smokes",
        "scripts/no_such.sh",
        "bash data/download_data.sh --onyl modelnet40",
        "sbatch --node=2 scripts/slurm.sh eval_svm.py",
    ],
)
def test_a_mistake_in_a_shell_command_is_seen(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        understand(shlex.split(line))


ENCODER = "--emb_dims 16 --num_points 64 --k 5".split()
TRAINING = "--epochs 1 --batch_size 8 --num_workers 0".split()
SMALLER = {  # what makes a documented command small; later flags win
    "train_crosspoint": [
        *(*ENCODER, *TRAINING, "--image_encoder", "resnet18"),
        *("--image_size", "32", "--svm_every", "0"),
    ],
    "finetune_cls": [*ENCODER, *TRAINING],
    "train_partseg": [*ENCODER, *TRAINING],
    "eval_svm": ENCODER,
    "eval_fewshot": [*ENCODER, "--n_query", "1", "--n_runs", "2"],
}


@pytest.mark.slow
def test_the_readme_s_commands_run_one_after_the_other(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order of the README, on small data and one process: what one command
    writes is where the next one looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eval_fewshot, "PUBLISHED_SETTINGS", ((2, 1), (3, 1)))
    # Enough of every class for episodes and for a held-out fifth.
    few = tmp_path / "few"
    few.mkdir()
    write_modelnet(few, {"train": [6] * 5, "test": [4] * 5})
    (few / "ScanObjectNN").mkdir()
    for split in ("train", "test"):
        source = few / "modelnet40_ply_hdf5_2048" / f"ply_data_{split}0.h5"
        shutil.copy(source, few / "ScanObjectNN" / f"{split}.h5")
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (partseg,) = re.findall(r"`(--model dgcnn_seg [^`]*)`", text)
    lines = [["train_crosspoint.py", *partseg.split()]]  # the one in a sentence
    for words in commands("README.md")[0]:
        if words[0] == "torchrun":
            args = torchrun_parser().parse_args(words[1:])
            lines.append([args.training_script, *args.training_script_args])
        elif words[0] == "python" and words[1] != "-m":
            lines.append(words[1:])
    done = []
    for words in lines:
        if words in done:
            continue
        script = importlib.import_module(SCRIPTS[words[0]])
        data = few if words[0].startswith("eval") else synthetic_root
        common = ["--data_root", str(data), "--overwrite", "--wandb", "disabled"]
        flags = [*words[1:], *SMALLER[script.__name__], *common]
        script.main(script.get_args_parser().parse_args(flags))
        distributed.stop()
        done.append(words)
    assert {SCRIPTS[words[0]] for words in done} == set(SMALLER)


def test_the_readme_s_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.M | re.S
    )
    clouds = np.random.default_rng(0).normal(size=(3, 32, 3)).astype(np.float32)
    np.save("clouds.npy", clouds)
    path = Path("checkpoints/crosspoint_cls/models/best_model.pth")
    path.parent.mkdir(parents=True)
    encoder = point_encoder("dgcnn", 15, 1024)
    torch.save(encoder.state_dict(), path)
    found: dict = {}
    exec(code, found)
    with torch.no_grad():
        expected = encoder.eval().features(torch.from_numpy(clouds).transpose(1, 2))
    np.testing.assert_allclose(found["features"], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_commands_on_data_run(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [words for name in DOCUMENTS for part in commands(name) for words in part]
    modules = {
        "datasets.synthetic": ["--out", str(tmp_path), "--shapes", "13"],
        "datasets.verify": ["--data_root", str(synthetic_root)],
        "datasets.packed": ["--data_root", str(tmp_path), "--overwrite"],
    }
    for name, smaller in modules.items():
        lines = {
            tuple(words[3:]) for words in found if words[:3] == ["python", "-m", name]
        }
        assert lines, name
        for words in sorted(lines):
            monkeypatch.setattr(sys, "argv", [name, *words, *smaller])
            try:
                runpy.run_module(name, run_name="__main__")
            except SystemExit as end:
                assert not end.code, (name, words)
