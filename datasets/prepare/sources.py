"""Where the data sets and the published weights can be fetched, and published sizes.

Checksums are listed where one is published; for the authors' archives there is none.
This project's tests have not fetched any source.
"""

from typing import NamedTuple

from datasets.files import (
    ARCHIVES,
    MODELNET40,
    RENDERINGS,
    SCANOBJECTNN,
    SHAPENET,
    SHAPENETPART,
)

TITLES = {
    "shapenet": "ShapeNetRender",
    "modelnet40": "ModelNet40",
    "scanobjectnn": "ScanObjectNN",
    "shapenetpart": "ShapeNetPart",
}
# Published sizes: data set, with its variant if it has some -> part -> number.
VIEWS = 24  # images of a shape
PUBLISHED = {
    "shapenet": {"categories": 13, "clouds": 43_783, "pictures": VIEWS * 43_783},
    "modelnet40": {"train": 9_840, "test": 2_468},
    "scanobjectnn obj_bg": {"train": 2_309, "test": 581},
    "scanobjectnn obj_only": {"train": 2_309, "test": 581},
    "scanobjectnn pb_t50_rs": {"train": 11_416, "test": 2_882},
    "shapenetpart": {"train": 12_137, "val": 1_870, "test": 2_874},
}


class Source(NamedTuple):
    """A source of an archive; size and checksum where they are published."""

    url: str  # with https; gdown knows what Google Drive wants
    archive: str  # the name the file gets in <data_root>/downloads
    inside: str  # the folder in the archive that is the data set
    size: int | None = None  # in bytes
    sha256: str | None = None  # of the archive


class Item(NamedTuple):
    """A folder of ``--data_root`` to fetch."""

    name: str  # of the data set, as --only takes it
    folder: str
    sources: tuple[Source, ...]  # tried in this order
    by_hand: str = ""  # what to do where none of them helps


DRIVE = "https://drive.google.com/uc?id="
STANFORD = "https://shapenet.cs.stanford.edu/media"  # often off, or its certificate is
SCANOBJECTNN_BY_HAND = """\
ScanObjectNN's official release (all variants) is given to those who accept its terms:
  1. fill in the form that https://hkust-vgd.github.io/scanobjectnn/ leads to
     (https://forms.gle/ZZRnnmaUdwfRucoy7), and download h5_files.zip from the link
     that you are given;
  2. unzip h5_files.zip -d {root}/ScanObjectNN
  3. python -m datasets.verify --data_root {root} --dataset scanobjectnn"""

# The authors' archives and their ids: data/download_data.sh of MohamedAfham/CrossPoint.
_AUTHORS = {
    SHAPENET: ("1F9XIhF1qngLt-GtdnOnXiTsXH84YtrbC", "shapenet.tar.gz"),
    RENDERINGS: ("1UUY729-4VK_igjKUzLn_ygm3LxwW23pX", "shapenet_render.tar.gz"),
    MODELNET40: ("15lmtRaHvVIPLOp_o7rms8e6VQp_en8WF", "modelnet40.tar.gz"),
    SCANOBJECTNN: ("1r3nJ6gEu6cL59h7cIfMrBeY5p1P_JiIV", "scanobjectnn.tar.gz"),
    SHAPENETPART: ("1-Yhqgi7KH6guIej_4X8pciiybQB4pBWQ", "shapenet_part.tar.gz"),
}
_OTHERS = {
    # Copies that charlesq34/pointnet#318 and ma-xu/pointMLP-pytorch#98 name; size and
    # SHA-256 as TensorFlow Graphics lists them for the one at Stanford
    # (tensorflow_graphics/datasets/modelnet40/checksums.tsv).
    MODELNET40: [
        Source(
            f"{place}/modelnet40_ply_hdf5_2048.zip",
            "modelnet40_ply_hdf5_2048.zip",
            MODELNET40,
            435_212_151,
            "07670e237db72ece0f723b9abb571534c9ad655a6456b389646587dc72bb8bae",
        )
        for place in (
            "https://huggingface.co/datasets/Msun/modelnet40/resolve/main",
            "https://github.com/ma-xu/pointMLP-pytorch/releases/download/"
            "Modenet40_dataset",
            STANFORD,
        )
    ],
    SHAPENETPART: [
        Source(
            f"{STANFORD}/shapenet_part_seg_hdf5_data.zip",
            "shapenet_part_seg_hdf5_data.zip",
            "hdf5_data",
        )
    ],
}
ITEMS = tuple(
    Item(
        ARCHIVES[folder],
        folder,
        (Source(f"{DRIVE}{file_id}", archive, folder), *_OTHERS.get(folder, ())),
        SCANOBJECTNN_BY_HAND if folder == SCANOBJECTNN else "",
    )
    for folder, (file_id, archive) in _AUTHORS.items()
)

# The Google Drive folder that the README of MohamedAfham/CrossPoint calls its
# pre-trained models; others call its files dgcnn_cls_best.pth, dgcnn_partseg_best.pth.
WEIGHTS = "weights"
WEIGHTS_ID = "10TVEIRUBCh3OPulKI4i2whYAcKVdSURn"
WEIGHTS_URL = f"https://drive.google.com/drive/folders/{WEIGHTS_ID}"
WEIGHTS_FOLDER = "checkpoints/published"

NAMES = (*dict.fromkeys(item.name for item in ITEMS), WEIGHTS)
