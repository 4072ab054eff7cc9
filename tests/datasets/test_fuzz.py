"""A few hundred cases of the fuzzing that scripts/soak.sh does at length."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.datasets import fuzz, fuzz_seeds

ROOT = Path(__file__).parents[2]


def start(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


@pytest.mark.parametrize("name", fuzz.READERS)
def test_any_bytes_are_read_or_refused(name):
    done = start("-m", "tests.datasets.fuzz", "--reader", name, "--cases", "300")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{name}: 300 cases:" in done.stdout


@pytest.mark.parametrize("name", fuzz.READERS)
def test_cases_begin_with_files_that_are_read(name, tmp_path):
    read = 0
    for content in fuzz_seeds.files(name):
        (tmp_path / "case").write_bytes(content)
        try:
            fuzz.READERS[name](tmp_path / "case")
            read += 1
        except fuzz.DataError:
            pass
    assert read >= len(fuzz_seeds.files(name)) // 2


# What fuzzing must notice of a reader; each is done before the file is read.
BROKEN = {
    "raises": "raise KeyError('x')",
    "memory": "numpy.ones(1 << 29, 'u1')",
    "hangs": "time.sleep(60)",
    "dies": "os.kill(os.getpid(), 11)",
    "wrong": "return numpy.zeros((0, 3), 'f4')",
}
CHILD = """
import os, sys, time, numpy
from pathlib import Path
from tests.datasets import fuzz
original = fuzz.read_ply
def read_ply(path):
    {}
    return original(path)
fuzz.SECONDS, fuzz.read_ply = 2, read_ply
fuzz.child("ply", 100, 0, Path(sys.argv[1]))
"""


@pytest.mark.parametrize("how", [None, *BROKEN])
def test_a_broken_reader_is_noticed(how, tmp_path):
    done = start("-c", CHILD.format(BROKEN.get(how, "pass")), str(tmp_path))
    assert (done.returncode != 0) == (how in BROKEN), done.stderr
    assert (tmp_path / "case.ply").exists()  # to be looked at
