"""Where the data sets and the published weights can be fetched, and what is known.

A checksum stands here only where somebody has published one: of the authors' archives
nobody has. No source has been fetched by this project's tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from datasets.files import MODELNET40, SCANOBJECTNN, SHAPENETPART


@dataclass(frozen=True)
class Source:
    """A place that an archive can be fetched from.

    Attributes:
        url: with https; gdown knows what Google Drive wants.
        archive: the name the file gets in ``<data_root>/downloads``.
        inside: the folder in the archive that is the data set.
        size: in bytes, None where none is published.
        sha256: of the archive, None where none is published.
    """

    url: str
    archive: str
    inside: str
    size: int | None = None
    sha256: str | None = None

    @property
    def on_drive(self) -> bool:
        """Whether Google Drive has it, which counts downloads and refuses some."""
        return self.url.startswith("https://drive.google.com/")


@dataclass(frozen=True)
class Item:
    """A folder of ``--data_root``.

    Attributes:
        name: of the data set, as ``--only`` takes it.
        folder: the folder.
        sources: tried in this order.
        by_hand: what to do where none of them helps.
    """

    name: str
    folder: str
    sources: tuple[Source, ...]
    by_hand: str = field(default="", repr=False)


def _drive(file_id: str, archive: str, inside: str) -> Source:
    return Source(f"https://drive.google.com/uc?id={file_id}", archive, inside)


def _modelnet(url: str) -> Source:
    # Size and SHA-256 as TensorFlow Graphics lists them for the copy at Stanford
    # (tensorflow_graphics/datasets/modelnet40/checksums.tsv). Others have put the file
    # elsewhere; only the same bytes are taken from there.
    name = "modelnet40_ply_hdf5_2048.zip"
    return Source(
        f"{url}/{name}",
        name,
        MODELNET40,
        435_212_151,
        "07670e237db72ece0f723b9abb571534c9ad655a6456b389646587dc72bb8bae",
    )


STANFORD = "https://shapenet.cs.stanford.edu/media"  # often off, or its certificate is
SCANOBJECTNN_BY_HAND = """\
ScanObjectNN's official release (all variants) is given to those who accept its terms:
  1. fill in the form that https://hkust-vgd.github.io/scanobjectnn/ leads to
     (https://forms.gle/ZZRnnmaUdwfRucoy7), and download h5_files.zip from the link
     that you are given;
  2. unzip h5_files.zip -d {root}/ScanObjectNN
  3. python -m datasets.verify --data_root {root} --dataset scanobjectnn"""

# The authors' archives and their ids: data/download_data.sh of MohamedAfham/CrossPoint.
ITEMS = (
    Item(
        "shapenet",
        "ShapeNet",
        (_drive("1F9XIhF1qngLt-GtdnOnXiTsXH84YtrbC", "shapenet.tar.gz", "ShapeNet"),),
    ),
    Item(
        "shapenet",
        "ShapeNetRendering",
        (
            _drive(
                "1UUY729-4VK_igjKUzLn_ygm3LxwW23pX",
                "shapenet_render.tar.gz",
                "ShapeNetRendering",
            ),
        ),
    ),
    Item(
        "modelnet40",
        MODELNET40,
        (
            _drive(
                "15lmtRaHvVIPLOp_o7rms8e6VQp_en8WF",
                "modelnet40.tar.gz",
                MODELNET40,
            ),
            # Copies named in charlesq34/pointnet#318 and ma-xu/pointMLP-pytorch#98.
            _modelnet("https://huggingface.co/datasets/Msun/modelnet40/resolve/main"),
            _modelnet(
                "https://github.com/ma-xu/pointMLP-pytorch/releases/download/"
                "Modenet40_dataset"
            ),
            _modelnet(STANFORD),
        ),
    ),
    Item(
        "scanobjectnn",
        SCANOBJECTNN,
        (
            _drive(
                "1r3nJ6gEu6cL59h7cIfMrBeY5p1P_JiIV",
                "scanobjectnn.tar.gz",
                SCANOBJECTNN,
            ),
        ),
        SCANOBJECTNN_BY_HAND,
    ),
    Item(
        "shapenetpart",
        SHAPENETPART,
        (
            _drive(
                "1-Yhqgi7KH6guIej_4X8pciiybQB4pBWQ",
                "shapenet_part.tar.gz",
                SHAPENETPART,
            ),
            Source(
                f"{STANFORD}/shapenet_part_seg_hdf5_data.zip",
                "shapenet_part_seg_hdf5_data.zip",
                "hdf5_data",
            ),
        ),
    ),
)

# The Google Drive folder that the README of MohamedAfham/CrossPoint calls its
# pre-trained models; others call its files dgcnn_cls_best.pth, dgcnn_partseg_best.pth.
WEIGHTS = "weights"
WEIGHTS_ID = "10TVEIRUBCh3OPulKI4i2whYAcKVdSURn"
WEIGHTS_URL = f"https://drive.google.com/drive/folders/{WEIGHTS_ID}"
WEIGHTS_FOLDER = "checkpoints/published"

NAMES = (*dict.fromkeys(item.name for item in ITEMS), WEIGHTS)
