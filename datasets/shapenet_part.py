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
