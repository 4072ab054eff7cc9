"""Fixtures that several test modules share."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from datasets import PARTS_PER_CATEGORY
from datasets.files import SHAPENETPART
from tests.helpers.ddp import Pool

# The tests are many and small, and some run several processes: threads of one would
# wait for each other. The variable is for the scripts that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

# Expected numbers are the CPU's, so GPUs are hidden and Triton's interpreter runs its
# kernels; `scripts/test.sh --gpu` runs them on a GPU. Triton reads its variable when it
# is first imported, which anything may do.
if "TEST_ON_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("TRITON_INTERPRET", "1")
elif not torch.cuda.is_available():
    pytest.exit("TEST_ON_GPU is set, but PyTorch sees no GPU here", returncode=2)

import tests.helpers.small_resnet  # noqa: E402, F401  # after the variable, before any script


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with most slow tests first, so that two processes end at the same time."""
    slow = Counter(x.path for x in items if x.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


UNEVEN_CLASSES = ("rod", "plate", "ball", "cross", "absent")


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[Pool]:
    """Two processes on gloo, started by the first test that runs something on them."""
    pool = Pool(2)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[Pool]:
    """Four, for data that divides by two."""
    pool = Pool(4)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four data sets, 24 rendered shapes: a ``--data_root``."""
    from datasets.synthetic import generate

    root = tmp_path_factory.mktemp("synthetic") / "data"
    generate(root, shapes=24, seed=0, workers=1)
    return root


def write_modelnet(root: Path, **counts: Sequence[int]) -> Path:
    """A ``--data_root`` of ModelNet40 alone: so many clouds of each class by split."""
    folder = root / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    (folder / "shape_names.txt").write_text("\n".join(UNEVEN_CLASSES) + "\n")
    random = np.random.default_rng(0)
    stretch = np.array([[4, 1, 1], [2, 2, 0.1], [1, 1, 1], [3, 3, 1], [1, 1, 1]])
    for split, number in counts.items():
        labels = random.permutation(np.repeat(np.arange(len(UNEVEN_CLASSES)), number))
        clouds = random.normal(size=(len(labels), 80, 3)) * stretch[labels][:, None] / 4
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = clouds.astype("f4")
            file["label"] = labels.astype("u1")[:, None]
    return root


@pytest.fixture(scope="session")
def uneven_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """21 and 13 labelled clouds: neither a batch of 8 nor 2 or 3 ranks divide them."""
    root = tmp_path_factory.mktemp("uneven")
    return write_modelnet(root, train=(9, 6, 5, 1, 0), test=(6, 2, 4, 1, 0))


@pytest.fixture(scope="session")
def even_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 training and 4 test clouds of each of five classes, of which two look alike."""
    return write_modelnet(tmp_path_factory.mktemp("even"), train=[6] * 5, test=[4] * 5)


@pytest.fixture(scope="session")
def tuned(tmp_path_factory: pytest.TempPathFactory, uneven_root: Path) -> Path:
    """The run folder of three epochs from scratch, weights of each kept."""
    from tests.helpers.runs import finetune

    words = ("--from_scratch", "--epochs", "3", "--save_freq", "1")
    return finetune(tmp_path_factory.mktemp("tuned"), uneven_root, *words)


@pytest.fixture(scope="session")
def part_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``--data_root`` of 4 training, 2 validation and 7 test shapes: 2, 3 and 4 do
    not divide the 6 that are trained on and the 7 both. The test split begins with 4
    chairs, more than are drawn of a category."""
    root = tmp_path_factory.mktemp("partseg")
    (root / SHAPENETPART).mkdir()
    random = np.random.default_rng(0)
    first_part = np.cumsum((0, *PARTS_PER_CATEGORY))
    splits = {"train": [4, 4, 0, 1], "val": [2, 3], "test": [4, 4, 4, 4, 0, 1, 2]}
    for split, categories in splits.items():
        parts = random.integers(0, 2, (len(categories), 80))
        with h5py.File(root / SHAPENETPART / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = random.normal(size=(*parts.shape, 3)).astype("f4")
            file["label"] = np.array(categories, "u1")[:, None]
            file["pid"] = (first_part[categories][:, None] + parts).astype("u1")
    return root
