"""A few hundred cases of the fuzzing that scripts/soak.sh does at length."""

from __future__ import annotations

import pytest

from tests.datasets import fuzz


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused() -> None:
    for read, refused in fuzz.fuzz(300, 1).values():
        assert read > 3 and refused > 100


def test_fuzzing_begins_with_files_that_are_read(tmp_path) -> None:
    for name, paths in fuzz.good_files(tmp_path).items():
        for path in paths:
            fuzz.CHECKS[name](path)


def test_a_broken_reader_is_noticed(monkeypatch, capsys) -> None:
    monkeypatch.setitem(fuzz.CHECKS, "png", lambda path: {}["x"])
    with pytest.raises(KeyError):
        fuzz.fuzz(10, 0)
    assert "png: case 0 of --seed 0 is kept as " in capsys.readouterr().out
