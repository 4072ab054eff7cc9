"""A few hundred cases of the fuzzing that tests/datasets/fuzz.py does at length."""

import os

import pytest

from tests.datasets import fuzz


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(capsys, monkeypatch):
    for read, refused in fuzz.fuzz(300, 1).values():
        assert read > 3 and refused > 100
    monkeypatch.setitem(fuzz.CHECKS, "png", lambda path: {}["x"])
    with pytest.raises(KeyError):
        fuzz.fuzz(10, 0)
    assert "png: case 0 of --seed 0 is kept as " in capsys.readouterr().out


def test_good_files_are_read_and_closed(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    for name, paths in fuzz.good_files(tmp_path).items():
        for path in paths:
            path.chmod(0o444)
            fuzz.CHECKS[name](path)
    assert set(os.listdir("/proc/self/fd")) == before
