"""ShapeNetPart: 16 categories of shapes, each point labelled with one of 50 parts."""

from __future__ import annotations

CATEGORIES = (
    "airplane",
    "bag",
    "cap",
    "car",
    "chair",
    "earphone",
    "guitar",
    "knife",
    "lamp",
    "laptop",
    "motorbike",
    "mug",
    "pistol",
    "rocket",
    "skateboard",
    "table",
)
PARTS_PER_CATEGORY = (4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3)
# Parts are numbered consecutively: category c owns FIRST_PART[c] and those that follow.
FIRST_PART = tuple(sum(PARTS_PER_CATEGORY[:c]) for c in range(len(CATEGORIES)))
NUM_PARTS = sum(PARTS_PER_CATEGORY)


class ShapeNetPart(Dataset):
    """ShapeNetPart as released in HDF5, whole or one rank's share of it, in memory.

    Args:
        data_root: the folder that holds `shapenet_part_seg_hdf5_data`.
        split: "train", "val", "trainval" or "test".
        num_points: the first so many points of every shape; None for all stored.
        shard: (rank, world size): read only this rank's contiguous share of the rows.
        class_choice: a name of `CATEGORIES`; only its shapes count. None for all.
        transform: (points, parts, rng) -> (points, parts), such as
            `datasets.transforms.shuffle_points`; its generator is a function of
            (seed, epoch, row of the whole split).
        seed: of the transform.

    Attributes:
        points: (M, N, 3) float32, as stored.
        labels: (M,) int64, categories.
        parts: (M, N) int64, 0 .. 49 over all categories.
        class_names: `CATEGORIES`.
        start, total: first row of this share, and rows of the whole split.

    Raises:
        DataError: if something is missing or damaged, stores too few points, or labels a
            point with a part of another category.
    """

    def __init__(
        self,
        data_root: str | os.PathLike,
        split: str,
        num_points: int | None = None,
        shard: tuple[int, int] = (0, 1),
        class_choice: str | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        if split not in ("train", "val", "trainval", "test"):
            raise ValueError(f"split is train, val, trainval or test, got {split!r}")
        if class_choice is not None and class_choice not in CATEGORIES:
            raise ValueError(
                f"--class_choice is one of {', '.join(CATEGORIES)}, got {class_choice!r}"
            )
        folder = Path(data_root) / FOLDER
        paths = []
        for part in ("train", "val") if split == "trainval" else (split,):
            paths += find_files(folder, part, f"{part}_hdf5_file_list.txt", ARCHIVE)
        keep = None if class_choice is None else CATEGORIES.index(class_choice)
        arrays, self.start, self.total = read_shard(
            paths, FIELDS, shard, num_points, ARCHIVE, keep
        )
        if self.total == 0:
            fail(folder, f"no {class_choice or 'shapes'} in its {split} split", ARCHIVE)
        self.points, self.labels = arrays["data"], arrays["label"]
        self.parts = arrays["pid"]
        self.class_names = list(CATEGORIES)
        self.transform, self.seed = transform, seed
        self._check_parts(paths)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def _check_parts(self, paths: Sequence[Path]) -> None:
        """Refuse points labelled with a part that their category does not have."""
        first = np.asarray(FIRST_PART)[self.labels][:, None]
        count = np.asarray(PARTS_PER_CATEGORY)[self.labels][:, None]
        bad = ((self.parts < first) | (self.parts >= first + count)).any(axis=1)
        if not bad.any():
            return
        # Rows may have been picked by category: look the offender up in its file.
        row = int(bad.argmax())
        for path in paths:
            arrays = read_hdf5([path], FIELDS, archive=ARCHIVE)
            first = np.asarray(FIRST_PART)[arrays["label"]][:, None]
            count = np.asarray(PARTS_PER_CATEGORY)[arrays["label"]][:, None]
            bad = (arrays["pid"] < first) | (arrays["pid"] >= first + count)
