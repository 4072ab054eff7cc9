"""The sizes that data sets should have."""

from __future__ import annotations

import pytest

from datasets.files import SHAPENETPART, DataError
from datasets.prepare.expected import PUBLISHED, Expected
from datasets.synthetic import split_sizes


def test_published_sizes():
    shapes = {name: sum(parts.values()) for name, parts in PUBLISHED.items()}
    assert shapes["modelnet40"] == 12_308  # of 12,311 models, in the HDF5 release
    assert shapes["shapenetpart"] == 16_881
    assert shapes["scanobjectnn"] == 2 * 2_890 + 14_298
    assert PUBLISHED["modelnet40"]["test"] == 2_468
    assert PUBLISHED["shapenetpart"] == {"train": 12_137, "val": 1_870, "test": 2_874}
    assert PUBLISHED["scanobjectnn"]["obj_bg test"] == 581
    assert PUBLISHED["scanobjectnn"]["pb_t50_rs test"] == 2_882
    sizes = {"categories": 13, "clouds": 43_783, "pictures": 1_050_792}
    assert PUBLISHED["shapenet"] == sizes


def test_sizes_of_generated_data(synthetic_root):
    expected = Expected(synthetic_root)
    splits = split_sizes(24)[SHAPENETPART]
    for split, size in splits.items():
        published = (PUBLISHED["shapenetpart"][split], "published")
        assert expected.sizes("shapenetpart", split) == [(size, "generated"), published]
    assert expected.sizes("shapenet", "pictures")[0] == (24 * 24, "generated")
    assert expected.sizes("shapenet", "categories") == []
    assert expected.sizes("scanobjectnn", "pb_t50_rs test")[0] == (24, "generated")


def test_sizes_without_a_manifest(tmp_path):
    for expected in (Expected(tmp_path), Expected(None)):
        assert expected.files == {}
        assert expected.sizes("modelnet40", "test") == [(2_468, "published")]
    (tmp_path / "manifest.json").mkdir()
    with pytest.raises(DataError, match="not a readable manifest"):
        Expected(tmp_path)
