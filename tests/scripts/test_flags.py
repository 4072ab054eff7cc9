"""The README's table of flags."""

from __future__ import annotations

import argparse

import pytest

import eval_svm
from scripts import flags
from utils.run.cli import RETIRED


def rows() -> dict[str, list[str]]:
    """Cells of the table by the flag's name."""
    cells = [line.strip("| ").split(" | ") for line in flags.table().splitlines()[2:]]
    return {row[0].strip("`").replace("[no-]", ""): row[1:] for row in cells}


def test_the_readme_has_the_flags_as_they_are() -> None:
    text = flags.README.read_text(encoding="utf-8")
    assert flags.in_readme(text) == text, "run python -m scripts.flags --write"


@pytest.mark.parametrize("script", flags.SCRIPTS)
def test_every_flag_of_every_script_is_in_the_table(script: str) -> None:
    table = rows()
    for action in flags.SCRIPTS[script].get_args_parser()._actions:
        name = action.option_strings[0]
        if name == "-h" or name in RETIRED:
            assert name not in table
        else:
            assert table[name][2] == "all" or script in table[name][2].split(", ")


def test_defaults_that_differ_name_their_scripts() -> None:
    table = rows()
    assert table["--k"][0] == "pre, svm: 15; cls: 20; seg: 40; few: 5"
    assert table["--seed"][0] == "1"
    assert table["--model_path"][0].endswith("svm, few: required")
    assert table["--resume"][0::2] == ["off", "pre, cls, seg"]
    assert table["--precision"][1].startswith("{fp32, fp64, bf16, fp16} ")


def test_another_parser_gives_another_table(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--new", choices=("a", "b"), help="a <thing> (default: a|b)")
    monkeypatch.setattr(eval_svm, "get_args_parser", lambda: parser)
    assert "| `--new` | a\\|b | {a, b} a \\<thing\\> | svm |" in flags.table()
    text = flags.README.read_text(encoding="utf-8")
    assert flags.in_readme(text) != text


def test_a_readme_without_the_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one <!-- made by"):
        flags.in_readme("nothing")
