"""The documentation: commands are understood or run; links, flags and paths exist."""

import ast
import importlib
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trimesh
from torch.distributed.run import get_args_parser as torchrun_parser

import eval_fewshot
import predict
from tests.test_imports import ROOT, SCRIPTS, sources
from utils.parallel import distributed

PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
DOCUMENTS = ("README.md", "data/README.md", "benchmarks/README.md", *PAGES)
COMMANDS = {f"{script}.py": script for script in SCRIPTS if script != "hubconf"}
PROGRAMS = {"python", "torchrun", "bash", "sbatch", "wandb", "pip", "papermill"}
FOREIGN = {"wandb", "pip", "papermill"}  # not ours to check
OF_SBATCH = {"--nodes", "--gpus-per-node", "--cpus-per-task", "--time"}


def read(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def blocks(text: str) -> Iterator[str]:
    """Indented blocks, and fenced ones that are not output or BibTeX."""
    outside = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for block in re.findall(r"(?:^    .*\n)+", outside, re.M):
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
    text = read(document)
    result = []
    for block in blocks(text):
        for line in block.replace("\\\n", " ").splitlines():
            if is_command(line):
                result.append(words_of(line))
            else:  # a tree of files
                assert " --" not in line, f"{document}: not understood: {line}"
    spans = re.findall(r"`([^`\n]+)`", text)
    inline = [words_of(span) for span in spans if is_command(span) and " " in span]
    return result, [words for words in inline if not {"...", "NAME"} & {*words}]


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
        if "\n. scripts/stages.sh\n" in text:
            text += read("scripts/stages.sh")
        own = rest[: rest.index("--")] if "--" in rest else rest  # then passed on
        flags = [word for word in own if word.startswith("--")]
        if launched := re.search(r"^launch \S+ \S+ (\w+)\.py", text, re.M):
            known = importlib.import_module(launched[1]).get_args_parser().format_help()
            assert all(f"  {flag}" in known for flag in flags), path
            return
        for flag in flags:
            assert re.search(rf"{flag}\b[^\n]*\)|{flag} \|", text), f"{path}: {flag}"
        return
    if rest[0] == "-m":
        _, name, *rest = rest
    else:
        name, rest = COMMANDS[rest[0]], rest[1:]
    module = importlib.import_module(name)
    if rest[-1:] != ["--help"] and hasattr(module, "get_args_parser"):
        module.get_args_parser().parse_args(rest)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_is_understood(document: str) -> None:
    in_blocks, inline = commands(document)
    assert len(in_blocks) > 15 or document != "README.md"
    for words in (*in_blocks, *inline):
        try:
            understand(words)
        except SystemExit:
            pytest.fail(f"{document}: {shlex.join(words)}")


@pytest.mark.parametrize("script", COMMANDS)
def test_every_command_of_a_script_s_help_is_understood(script: str) -> None:
    text = importlib.import_module(COMMANDS[script]).__doc__ or ""
    text = text.replace("\\\n", " ").replace("=N ", "=2 ")
    lines = re.findall(r"\b(?:python|torchrun) .*\.py.*", text)
    assert len(lines) >= 2
    for line in lines:
        understand(shlex.split(line))


def test_the_readme_is_a_map() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 210
    assert not [page for page in PAGES if f"({page})" not in text]


def anchors(document: str) -> set[str]:
    """Names of a page's headings in links, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", read(document), flags=re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", read(document)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        place = (ROOT / document).parent / path if path else ROOT / document
        assert place.exists(), link
        if anchor:
            assert anchor in anchors(str(place.resolve().relative_to(ROOT))), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_python_names_in_the_text_exist(document: str) -> None:
    text = read(document)
    top = "models|datasets|utils|scripts|benchmarks|docs|tests"
    for path in re.findall(rf"`((?:{top})/[\w./-]*)`", text):
        known = (ROOT / path).exists() or path == "models/tiny.py"  # made by the page
        assert known or path.endswith((".pth", "network.json")), path
    for name in re.findall(r"`((?:models|datasets|utils)(?:\.\w+)+)`", text):
        assert pkgutil.resolve_name(name) is not None


# Flags of other programs, and of the code that differences.md compares with.
OTHERS = "ipc shm-size standalone max-restarts host rank in-place".split()
OTHERS += ["num_pt_points", "wb_key"]


def flags_of_the_code() -> set[str]:
    """Those that a parser is given, and any that a shell script has."""
    result = {*OTHERS}
    for path in (*sources(), *ROOT.glob("scripts/*.sh")):
        name = r"--(\w[\w-]*)" if path.suffix == ".sh" else r'"--(\w[\w-]*)"'
        result |= {*re.findall(name, path.read_text(encoding="utf-8"))}
    return result


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_in_the_text_exist(document: str) -> None:
    known = flags_of_the_code()
    text = re.sub(r"(?<!`)```.*?```", "", read(document), flags=re.S)
    for span in re.findall(r"`([^`\n]+)`", text):
        for flag in re.findall(r"(?<![\w-])--(?:no-)?(\w[\w-]*)", span):
            assert flag in known, span


def messages() -> list[str]:
    """The texts in the code, with a space for each value."""
    result = []
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            texts = [p.value if isinstance(p, ast.Constant) else " " for p in parts]
            result.append("".join(t for t in texts if isinstance(t, str)))
    return result


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| (.*?) \| ", read("docs/troubleshooting.md"), re.M)
    spans = [span for row in rows for span in re.findall(r"`([^`]*)`", row)]
    assert len(spans) > 20
    texts = messages()
    for span in spans:
        parts = [re.escape(part.strip()) for part in span.split("...") if part.strip()]
        pattern = re.compile(".*".join(parts), re.S)
        assert any(pattern.search(text) for text in texts), span


@pytest.mark.parametrize(
    "line",
    [
        "python eval_svm.py --model_path a --no_such_flag",
        "python eval_svm.py --model_path a --dataset shapenet",
        "torchrun --nprocs=2 eval_svm.py --model_path a",
        "torchrun --nproc_per_node=2 eval_svm.py",
        "python -m datasets.verify --datasets modelnet40",
        "scripts/pipeline.sh --smokes",
        "scripts/no_such.sh",
        "bash data/download_data.sh --onyl modelnet40",
        "sbatch --node=2 scripts/slurm.sh eval_svm.py",
    ],
)
def test_a_mistake_is_seen(line: str) -> None:
    with pytest.raises((AssertionError, SystemExit)):
        understand(shlex.split(line))


ENCODER = "--emb_dims 16 --num_points 64 --k 5"
TRAINING = "--epochs 1 --batch_size 8 --num_workers 0"
IMAGES = "--image_encoder resnet18 --image_size 32 --svm_every 0"
SMALLER = {  # what makes a documented command small; later flags win
    "train_crosspoint": f"{ENCODER} {TRAINING} {IMAGES}",
    "finetune_cls": f"{ENCODER} {TRAINING}",
    "train_partseg": f"{ENCODER} {TRAINING}",
    "eval_svm": ENCODER,
    "eval_fewshot": f"{ENCODER} --n_query 1 --n_runs 2",
    "predict": "",
}


@pytest.mark.slow
def test_the_readme_s_commands_run_one_after_the_other(
    synthetic_root: Path, even_root: Path, tmp_path: Path, monkeypatch
) -> None:
    """In the order of the README, on small data and one process: what one command
    writes is where the next one looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(eval_fewshot, "PUBLISHED_SETTINGS", ((2, 1), (3, 1)))
    # Enough of every class for episodes and for a held-out fifth.
    few = shutil.copytree(even_root, tmp_path / "few")
    (few / "ScanObjectNN").mkdir()
    for split in ("train", "test"):
        source = few / "modelnet40_ply_hdf5_2048" / f"ply_data_{split}0.h5"
        shutil.copy(source, few / "ScanObjectNN" / f"{split}.h5")
    (tmp_path / "shapes").mkdir()
    for path in (tmp_path / "shapes" / "box.obj", tmp_path / "chair.ply"):
        trimesh.creation.box((1, 2, 3)).export(path)
    done = []
    for words in commands("README.md")[0]:
        if words[0] == "torchrun":
            args = torchrun_parser().parse_args(words[1:])
            words = [args.training_script, *args.training_script_args]
        elif words[0] == "python" and words[1] != "-m":
            words = words[1:]
        if words[0] not in COMMANDS or words in done:
            continue
        script = importlib.import_module(COMMANDS[words[0]])
        data = few if words[0].startswith("eval") else synthetic_root
        flags = [*words[1:], *SMALLER[script.__name__].split(), "--overwrite"]
        if script is predict:
            predict.main(predict.get_args_parser().parse_args(flags))
        else:
            flags += ["--data_root", str(data), "--wandb", "disabled"]
            args = script.get_args_parser().parse_args(flags)
            distributed.run(script.main, args)
        done.append(words)
    assert {COMMANDS[words[0]] for words in done} == set(SMALLER)


@pytest.mark.slow
def test_the_commands_on_data_run(
    synthetic_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_blocks = [words for name in DOCUMENTS for words in commands(name)[0]]
    meshes = tmp_path / "meshes"
    for number in range(8):
        path = meshes / f"class{number % 2}/{number}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        trimesh.creation.box((1, 2, number + 1)).export(path)
    one = ("--workers", "1")
    modules = {
        "datasets.synthetic": ["--out", str(tmp_path / "data"), "--shapes", "13", *one],
        "datasets.verify": ["--data_root", str(synthetic_root), *one],
        "datasets.packed": ["--data_root", str(tmp_path / "data"), "--overwrite"],
        "datasets.from_meshes": [
            *("--meshes", str(meshes), "--out", str(tmp_path / "own")),
            *("--views", "1", "--image_size", "16", *one),
        ],
    }
    for name, smaller in modules.items():
        module = ["python", "-m", name]
        lines = {tuple(words[3:]) for words in in_blocks if words[:3] == module}
        assert lines, name
        for words in sorted(lines):
            monkeypatch.setattr(sys, "argv", [name, *words, *smaller])
            try:
                runpy.run_module(name, run_name="__main__")
            except SystemExit as end:
                assert not end.code, (name, words)
