"""The command that draws the curves of runs."""

from pathlib import Path

import pytest
from PIL import Image

from scripts import plot
from tests.utils.drawing.test_curves import step, write
from utils.errors import UsageError


def test_it_writes_a_png_or_nothing(tmp_path: Path, capsys) -> None:
    run = write(tmp_path / "run", step(0, 1.0), step(10, 0.5))
    plot.main([str(run)])
    assert capsys.readouterr().out.split() == [str(run / "curves.png")]
    with Image.open(run / "curves.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 300
    absent, out = str(tmp_path / "absent"), str(tmp_path / "b.png")
    with pytest.raises(UsageError, match=r"absent/metrics\.jsonl is missing"):
        plot.main([str(run), absent, "--out", out])
    with pytest.raises(SystemExit):
        plot.main([str(run), "--out", str(tmp_path / "curves.pdf")])
    assert "curves.pdf: only PNG is written" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
