"""Nothing in the tree runs what a data or weight file says.

Ruff refuses ``eval``, shells, and imports of pickle and its like (pyproject.toml); here
are the calls that are safe with one argument alone.
"""

import ast
import re

import pytest

from tests.test_imports import ROOT, sources

REQUIRED = {
    "torch.load": "weights_only=True",
    "np.load": "allow_pickle=False",
    "extractall": "filter='data'",
    "extract": "filter='data'",
}


def unsafe(source: str) -> list[str]:
    """The calls of a module that lack what they need."""
    nodes = ast.walk(ast.parse(source))
    calls = [ast.unparse(node) for node in nodes if isinstance(node, ast.Call)]
    return [
        call
        for call in calls
        for name, needed in REQUIRED.items()
        if re.match(rf"([\w.]*\.)?{re.escape(name)}\(", call) and needed not in call
    ]


def test_files_are_read_without_their_code() -> None:
    paths = sources()
    assert len(paths) > 40
    for path in paths:
        assert not unsafe(path.read_text("utf-8")), path


@pytest.mark.parametrize(
    "source",
    [
        *("torch.load(path)", "torch.load(path, weights_only=flag)", "np.load(path)"),
        *("archive.extractall(folder)", "archive.extract(a, filter='tar')"),
    ],
)
def test_each_way_is_seen(source: str) -> None:
    assert unsafe(source)


def test_no_script_or_notebook_does() -> None:
    """Python inside shell scripts and the notebook, which only words tell."""
    bad = re.compile(
        r"pickle|torch\.load|np\.load|yaml\.load|(^|[;&|(])\s*eval |shell=True"
        r"|curl .*\| *(ba)?sh",
        re.MULTILINE,
    )
    paths = [*ROOT.rglob("scripts/*.sh"), ROOT / "data/download_data.sh"]
    for path in [*paths, *ROOT.glob("*.ipynb")]:
        assert not bad.search(path.read_text(encoding="utf-8")), path


def test_downloads_are_checked_as_the_sites_certificates_say() -> None:
    """No source without https, and nobody is told to look away."""
    away = re.compile(r"no.check.certificate|verify=False|_create_unverified|http://")
    for name in ("sources.py", "download.py"):
        assert not away.search((ROOT / "datasets" / "prepare" / name).read_text()), name
    assert not away.search((ROOT / "data/download_data.sh").read_text())
