"""The Triton kernels as machine code: the interpreter accepts more than a compiler."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

pytest.importorskip("triton")


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["80", "90"])
def test_kernels_compile_without_spilling_and_stay_in_float64(capability, tmp_path):
    variables = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.fused.compile_for", capability],
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if " registers, " in line]
    assert {line.split()[0] for line in lines} == {
        *("_knn", "_edge_extremes", "_edge_gradients"),
        *("_column_sums", "_pool", "_pool_gradient"),
        *("_pack", "_combine", "_activation_gradient", "_statistics_gradient"),
    }
    assert sum(" float64:" in line for line in lines) > 5
    for line in lines:
        actual = re.findall(r"(\d+) [a-z]", line.split(": ")[1])
        registers, spilled, single = map(int, actual)
        assert registers <= 255
        assert spilled <= 64, line
        if "float32" not in line:  # a slope as an argument would be float32
            assert single == 0, line
