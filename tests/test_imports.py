"""Who may import whom, and that importing a script does nothing."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("models", "datasets", "utils")
SCRIPTS = sorted(path.stem for path in ROOT.glob("*.py"))
PROJECT = {*PACKAGES, *SCRIPTS, "scripts", "benchmarks", "tests"}

# What each folder may import from the project beside itself.
SHARED = ("utils.parallel", "utils.errors")
ALLOWED = {
    "models": ("utils.parallel",),
    "models/export.py": ("models", *SHARED, "utils.run"),
    "datasets": SHARED,
    "utils/errors.py": (),
    "utils/parallel": ("utils.errors",),
    "utils/run": SHARED,
    "utils/judging": (*SHARED, "utils.run", "datasets.PARTS_PER_CATEGORY"),
    "utils/drawing": (*SHARED, "utils.run", "utils.judging"),
}
COMMAND_LINE = ("utils.run.cli", "utils.run.flags")  # of the scripts alone
COMMANDS = {"models/export.py"}  # run by `python -m`: as a script, not as its folder


def modules_in(source: str) -> set[str]:
    """Every module of the project that the source imports, wherever in the file.

    ``from a import b`` counts as ``a.b``, since b may be a module. Ruff refuses
    relative imports.
    """
    result = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            result |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in result if name.split(".")[0] in PROJECT}


def modules_of(path: Path) -> set[str]:
    return modules_in(path.read_text(encoding="utf-8"))


def within(name: str, allowed: tuple[str, ...]) -> bool:
    return any(name == a or name.startswith(f"{a}.") for a in allowed)


def files_in(*places: str) -> list[Path]:
    """Modules in folders of the project, or files themselves."""
    paths = [p for x in places for p in (ROOT / x, *(ROOT / x).rglob("*.py"))]
    result = sorted(path for path in paths if path.is_file())
    assert result
    return result


def sources() -> list[Path]:
    """Every module but the tests."""
    scripts = [f"{script}.py" for script in SCRIPTS]
    return files_in(*PACKAGES, "scripts", "benchmarks", *scripts)


@pytest.mark.parametrize("place", ALLOWED)
def test_packages_import_in_one_direction(place):
    allowed = (place.replace("/", ".").removesuffix(".py"), *ALLOWED[place])
    for path in files_in(place):
        if place in COMMANDS or str(path.relative_to(ROOT)) not in COMMANDS:
            outside = [n for n in modules_of(path) if not within(n, allowed)]
            assert not outside, f"{path} may import {allowed} alone"


def test_every_folder_of_utils_has_a_direction():
    places = {p.relative_to(ROOT).parts[:2] for p in files_in("utils")}
    assert {"/".join(parts) for parts in places} - {"utils/__init__.py"} <= set(ALLOWED)


def test_scripts_alone_know_the_command_line():
    commands = {ROOT / path for path in COMMANDS}
    paths = files_in(*(place for place in ALLOWED if place != "utils/run"))
    for path in set(paths) - commands:
        assert not [n for n in modules_of(path) if within(n, COMMAND_LINE)], path


def graph_of(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """Which module imports which, from the dotted names that each one imports."""
    graph: dict[str, set[str]] = {module: set() for module in imports}
    for module, names in imports.items():
        for name in names:
            while name and name not in imports:
                name = name.rpartition(".")[0]
            graph[module] |= {name} - {"", module}
    return graph


def test_no_module_imports_itself_through_others():
    """Imports inside functions count: a circle is one even when it is put off."""
    imports = {}
    program = re.compile(r"^if __name__ == .*\n(?:(?:    .*)?\n)*", re.M)
    for path in sources():
        parts = path.relative_to(ROOT).with_suffix("").parts
        imports[".".join(parts).removesuffix(".__init__")] = modules_in(
            program.sub("", path.read_text(encoding="utf-8"))
        )
    graph = graph_of(imports)
    assert "models.dgcnn" in graph["models"]  # inside a function
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("script", SCRIPTS)
def test_root_scripts_import_the_packages_and_no_script(script):
    modules = modules_of(ROOT / f"{script}.py")
    assert not [name for name in modules if not within(name, PACKAGES)]


def test_nothing_but_tests_imports_tests():
    for path in sources():
        assert not [n for n in modules_of(path) if within(n, ("tests",))], path


# Runs in an interpreter of its own, where whatever a script must not do fails.
IMPORT_ALL = """
import argparse, importlib, multiprocessing, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError("importing a script did something")

sys.argv = ["importer", "--no_such_flag"]
argparse.ArgumentParser.parse_known_args = refuse
socket.socket.connect = refuse
multiprocessing.Process.start = refuse
import torch
state = torch.get_rng_state()
for name in {names!r}:
    importlib.import_module(name)
    assert not torch.cuda.is_initialized(), name
    assert not torch.distributed.is_initialized(), name
    assert torch.equal(torch.get_rng_state(), state), name
print("imported", len({names!r}))
"""


@pytest.mark.slow
def test_importing_a_script_does_nothing():
    command = [sys.executable, "-c", IMPORT_ALL.format(names=SCRIPTS)]
    output = subprocess.check_output(command, cwd=ROOT, text=True, timeout=120)
    assert output == f"imported {len(SCRIPTS)}\n"
