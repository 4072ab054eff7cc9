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
# Modules that run or rebuild what they read, whichever function of them is called.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ERRORS = {"pickle.UnpicklingError", "pickle.PickleError"}  # of them, to be caught
CALLS = {"eval", "exec", "compile", "os.system", "os.popen", "pickle.load"}
LOADERS = {  # last name of a call -> what must be given, and what must not
    "torch.load": ("weights_only", True),
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "yaml.load": (None, None),
    "yaml.unsafe_load": (None, None),
    "yaml.full_load": (None, None),
    "torch.hub.load": (None, None),
    "joblib.load": (None, None),
    "pd.read_pickle": (None, None),
    "numpy.lib.format.read_array": (None, None),
}


def name_of(node: ast.expr) -> str:
    """``a.b.c`` of an attribute or name, else what can be told of it."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return "?"


def unsafe(source: str) -> list[str]:
    """What a module does that runs the content of a file, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            name = name_of(node)
            if name.split(".")[0] in MODULES and name not in ERRORS:
                found.append(f"{node.lineno}: {name}")
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None)
            for alias in node.names:
                name = f"{module}.{alias.name}" if module else alias.name
                # Under another name its calls would not be seen.
                renamed = module or alias.asname not in (None, "np", "pd")
                known = name in LOADERS or name.split(".")[0] in MODULES
                if renamed and known:
                    found.append(f"{node.lineno}: import of {name}")
        if not isinstance(node, ast.Call):
            continue
        name = name_of(node.func)
        given = {word.arg: word.value for word in node.keywords}
        if name in CALLS:
            found.append(f"{node.lineno}: {name}()")
        if name in LOADERS:
            flag, wanted = LOADERS[name]
            value = given.get(flag)
            if not (isinstance(value, ast.Constant) and value.value is wanted):
                found.append(f"{node.lineno}: {name}() without {flag}={wanted}")
        shell = given.get("shell")
        if shell is not None and getattr(shell, "value", True):
            found.append(f"{node.lineno}: shell=True")
        pickled = given.get("allow_pickle")
        if pickled is not None and getattr(pickled, "value", True):
            found.append(f"{node.lineno}: allow_pickle")
        if name.split(".")[-1] in ("extractall", "extract") and not (
            isinstance(given.get("filter"), ast.Constant)
            and given["filter"].value == "data"
        ):
            found.append(f"{node.lineno}: {name}() without filter='data'")
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
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "import pickle as p",
        "pickle.loads(content)",
        "copy = pickle.load",
        "import torch.hub.load as t",
        "from pickle import loads",
        "from torch import load",
        "joblib.load(path)",
        "yaml.load(text)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
        "archive.extractall(folder)",
        "archive.extractall(folder, filter='fully_trusted')",
        "something.read(path, allow_pickle=True)",
    ],
)
def test_each_way_is_seen(source):
    assert unsafe(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path, map_location='cpu', weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "model.eval()",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    g()",
        "json.load(stream)",
        "re.compile('a')",
        "archive.extractall(folder, filter='data')",
    ],
)
def test_what_is_safe_passes(source):
    assert unsafe(source) == []
