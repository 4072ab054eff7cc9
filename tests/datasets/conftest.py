"""A place to download to, with a stand-in for gdown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from datasets.prepare import download, verify

ROOT = Path(__file__).resolve().parents[2]


def files(root: Path) -> dict[str, int]:
    """Every file below a folder and its size."""
    paths = sorted(root.rglob("*"))
    return {str(p.relative_to(root)): p.stat().st_size for p in paths if p.is_file()}


@dataclass
class Place:
    """A working folder whose gdown is the fake, and what that one serves.

    Attributes:
        folder: the working folder.
        environment: of a process that is to find the fake.
        output: takes what has been printed since the last time.
        own_verify: the real one.
        checked: the data sets that were verified, run by run.
        verdict: the exit status of a replaced verify; None: its own.
    """

    folder: Path
    environment: dict[str, str]
    output: Callable[[], str]
    own_verify: Callable[[list[str]], None] = verify.main
    checked: list[list[str]] = field(default_factory=list)
    verdict: int | None = 0

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def drive(self) -> Path:
        return self.folder / "drive"

    @property
    def calls(self) -> list[str]:
        """What gdown was called with, but for its help."""
        path = self.drive / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def serve(self, address: str, content: bytes | Path) -> None:
        """What gdown is to get from an address: bytes, or a folder."""
        path = self.drive / address.replace("/", "_").replace(":", "_")
        if isinstance(content, Path):
            shutil.copytree(content, path)
        else:
            path.write_bytes(content)

    def limit(self, cut: int | None, kill: bool = False, slow: bool = False) -> None:
        """After how many bytes the connection ends from now on, and how."""
        for name, value in (("cut", cut), ("kill", kill), ("slow", slow)):
            (self.drive / name).unlink(missing_ok=True)
            if value:
                (self.drive / name).write_text(str(value))

    def verify(self, words: list[str]) -> None:
        args = verify.get_args_parser().parse_args(words)
        assert args.data_root == Path("data")
        self.checked.append(args.dataset)
        if self.verdict is None:
            self.own_verify(words)
        raise SystemExit(self.verdict)

    def run(self, *words: str) -> tuple[int, str]:
        """The exit status of a run in this process, and what it said."""
        with pytest.raises(SystemExit) as end:
            download.main(list(words))
        return end.value.code, self.output()

    def start(self, *words: str) -> subprocess.Popen:
        """Start a run in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "datasets.prepare.download", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.fixture
def place(tmp_path: Path, monkeypatch, capfd) -> Place:
    for name in ("modules", "drive"):
        (tmp_path / name).mkdir()
    fake = Path(__file__).with_name("fake_gdown.py")
    shutil.copy(fake, tmp_path / "modules" / "gdown.py")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'modules'}:{ROOT}")
    monkeypatch.setenv("FAKE_DRIVE", str(tmp_path / "drive"))
    monkeypatch.chdir(tmp_path)
    made = Place(tmp_path, dict(os.environ), lambda: "".join(capfd.readouterr()))
    monkeypatch.setattr(verify, "main", made.verify)
    return made
