"""What the tests of the data sets share: files, command lines, an error's text."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from torch.utils.data import Dataset

from datasets.files import DataError


def ply(count: object, body: str = "", kind: str = "ascii") -> str:
    """A PLY file that announces so many points."""
    axes = "".join(f"property float {axis}\n" for axis in "xyz")
    return f"ply\nformat {kind} 1.0\nelement vertex {count}\n{axes}end_header\n{body}"


def write_h5(path: Path, **arrays: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder and its content."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in paths}


def exit_status(main: Callable[[list[str]], object], *words: object) -> int:
    """The exit status of a command."""
    try:
        main([str(word) for word in words])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def refused(call: Callable[[], object], *texts: object, only: str = "") -> None:
    """A call ends in a `DataError` with these texts and the remedy, `--only NAME`."""
    with pytest.raises(DataError) as error:
        call()
    remedy = "bash data/download_data.sh" + (f" --only {only}" if only else "")
    remedies = f"`{remedy}`", "`--data_root data/synthetic`"
    for text in (*texts, *remedies):
        assert str(text) in str(error.value), error.value


def check_shards(
    read: Callable[[tuple[int, int]], Dataset], world: int, *arrays: str
) -> None:
    """The ranks' shares one after the other are the whole; both by `read(shard)`."""
    whole, shards = read((0, 1)), [read((rank, world)) for rank in range(world)]
    for name in arrays:
        together = np.concatenate([getattr(shard, name) for shard in shards])
        np.testing.assert_array_equal(together, getattr(whole, name))
    starts = np.cumsum([0] + [len(shard) for shard in shards[:-1]])
    assert [shard.start for shard in shards] == list(starts)
    assert {shard.total for shard in shards} == {len(whole)}
