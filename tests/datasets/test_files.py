"""What an error of a reader says, and opening files."""

from datasets.files import how_to_get


def test_the_cure_names_both_commands():
    sentence = how_to_get("modelnet40")
    assert "bash data/download_data.sh --only modelnet40" in sentence
    assert "python -m datasets.synthetic --out data/synthetic --shapes 480" in sentence
    assert "--data_root data/synthetic" in sentence
    assert "--only" not in how_to_get()
