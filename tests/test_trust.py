"""Nothing in the tree runs what a data or weight file says: no pickle, no eval."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Tests may take apart and put together what they made themselves.
PYTHON = sorted(
    path
    for path in ROOT.rglob("*.py")
    if path.relative_to(ROOT).parts[0] not in ("tests", "checkpoints", "data")
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
)
# Names that run or rebuild what they read. A part of a dotted name counts as well, and
# imports count, so that nothing comes under another name.
BANNED = re.compile(
    r"(pickle|cPickle|dill|cloudpickle|joblib|shelve|marshal|yaml|eval|exec|compile)"
    r"(\..*)?|os\.(system|popen)|torch\.hub\.load|.*\.read_pickle|numpy\.lib\..*"
)
REQUIRED = {  # the last name of a call -> a keyword, and the value that it must have
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "extractall": ("filter", "data"),
    "extract": ("filter", "data"),
}
REFUSED = ("shell", "allow_pickle")  # keywords of any call, if they are not False


def unsafe(source: str) -> list[str]:
    """What a module does that runs the content of a file, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute | ast.Name):
            names = [ast.unparse(node)]
        bad = any(BANNED.fullmatch(name) for name in names)
        if isinstance(node, ast.ImportFrom):  # its calls would not be seen
            bad = bad or any(name in REQUIRED for name in names)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            needed = REQUIRED.get(name) or REQUIRED.get(name.split(".")[-1])
            if needed:
                bad = given.get(needed[0]) != repr(needed[1])
            bad = bad or any(given.get(key, "False") != "False" for key in REFUSED)
        if bad:
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_there_is_something_to_look_at():
    assert len(PYTHON) > 40
    assert any(path.name == "checkpoint.py" for path in PYTHON)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_runs_what_a_file_says(path):
    assert unsafe(path.read_text(encoding="utf-8")) == []


def test_no_script_or_notebook_does():
    """Python inside shell scripts and the notebook, which only words tell."""
    bad = re.compile(
        r"pickle|torch\.load|np\.load|yaml\.load|(^|[;&|(])\s*eval |shell=True"
        r"|curl .*\| *(ba)?sh",
        re.MULTILINE,
    )
    paths = [*ROOT.rglob("scripts/*.sh"), ROOT / "data/download_data.sh"]
    for path in [*paths, *ROOT.glob("*.ipynb")]:
        assert not bad.search(path.read_text(encoding="utf-8")), path


def test_downloads_are_checked_as_the_sites_certificates_say():
    """No source without https, and nobody is told to look away."""
    away = re.compile(r"no.check.certificate|verify=False|_create_unverified|http://")
    for name in ("sources.py", "download.py"):
        assert not away.search((ROOT / "datasets" / "prepare" / name).read_text()), name
    assert not away.search((ROOT / "data/download_data.sh").read_text())


@pytest.mark.parametrize(
    "source",
    [
        *("torch.load(path)", "torch.load(path, weights_only=False)"),
        *("torch.load(path, weights_only=flag)", "np.load(path)"),
        *("np.load(path, allow_pickle=True)", "import pickle as p; p.loads(content)"),
        *("pickle.loads(content)", "copy = pickle.load", "import torch.hub.load as t"),
        *("from pickle import loads", "from torch import load", "joblib.load(path)"),
        *("yaml.load(text)", "eval(text)", "subprocess.run(text, shell=True)"),
        *("archive.extractall(folder)", "archive.extractall(folder, filter='tar')"),
        "something.read(path, allow_pickle=True)",
    ],
)
def test_each_way_is_seen(source):
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        *("np.load(path, allow_pickle=False)", "model.eval()", "json.load(stream)"),
        *("re.compile('a')", "archive.extractall(folder, filter='data')"),
    ],
)
def test_what_is_safe_passes(source):
    assert unsafe(source) == []
