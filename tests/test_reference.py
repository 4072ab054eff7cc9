"""Training gives the numbers that are kept in tests/reference, step by step.

``curves.json`` has the records of 20 steps of each script in float64. A change of the
loss, the augmentation, the order of the samples or the optimiser shows here. If it is
meant, write the file anew and say why in the commit:

    python -m tests.helpers.small_resnet tests/test_reference.py --write

The folders hold weights and checkpoints that commit 9b60650 wrote in the middle of a
run, and what that commit recorded when it resumed from them. They cannot be made anew:
files of that age have to load. All tensors of a file are views of a few short rows of
numbers, which keeps names, shapes and dtypes in a fraction of the size.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import point_encoder
from models.image import ImageEncoder
from tests.helpers import small_resnet
from tests.helpers.runs import records, run_main
from tests.helpers.small_data import write_small_data
from utils.run.checkpoint import load_pretrained

REFERENCE = Path(__file__).with_name("reference")
COMMON = (
    "--num_points 64 --k 5 --emb_dims 16 --batch_size 8 --num_workers 0 "
    "--wandb disabled --print_freq 1 --precision fp64 "
)
IMAGES = f"--image_encoder {small_resnet.NAME} --image_size 32 "
RUNS = {
    "train_crosspoint": ("train_crosspoint", IMAGES),
    "train_crosspoint_seg": ("train_crosspoint", IMAGES + "--model dgcnn_seg "),
    "finetune_cls": ("finetune_cls", "--from_scratch --lr 0.001 "),
    "train_partseg": ("train_partseg", "--from_scratch "),
}
OLD = ("train_crosspoint", "finetune_cls", "train_partseg")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_data(tmp_path_factory.mktemp("small"))


def curve(
    case: str, folder: Path, data: Path, words: str = "--epochs 10"
) -> list[dict[str, Any]]:
    """What the run writes to metrics.jsonl, without its speed."""
    script, flags = RUNS[case]
    return records(run_main(script, COMMON + flags + words, folder, data))


def same(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Equal to 1e-6, relative: rounding in float64 grows to about 1e-9 in 20 steps, and
    another processor or version may draw the initial float32 weights 1e-7 apart."""
    for line, other in zip(actual, expected, strict=True):
        assert line == pytest.approx(other, rel=1e-6), other


@pytest.mark.slow
@pytest.mark.parametrize("case", RUNS)
def test_twenty_steps(case: str, tmp_path: Path, data: Path) -> None:
    expected = json.loads((REFERENCE / "curves.json").read_text())[case]
    assert sum("step" in line for line in expected) == 20
    same(curve(case, tmp_path, data), expected)


@pytest.mark.slow
@pytest.mark.parametrize("case", OLD)
def test_an_old_checkpoint_resumes(case: str, tmp_path: Path, data: Path) -> None:
    models = tmp_path / "checkpoints" / "run" / "models"
    models.mkdir(parents=True)
    shutil.copy(REFERENCE / case / "checkpoint_last.pth", models)
    words = "--epochs 6 --resume"
    if case == "train_crosspoint":
        words += " --image_encoder resnet18"
    expected = json.loads((REFERENCE / case / "following.json").read_text())
    assert [line["step"] for line in expected if "step" in line] == [7, 8, 9, 10, 11]
    actual = curve(case, tmp_path, data, words)
    # Later versions record more, such as knn_accuracy.
    known = [
        {name: line[name] for name in old if name in line}
        for line, old in zip(actual, expected, strict=True)
    ]
    same(known, expected)


@pytest.mark.parametrize(
    ("file", "build", "words"),
    [
        ("train_crosspoint/best_model.pth", point_encoder, ("dgcnn", 5, 16)),
        ("train_crosspoint/img_model_best.pth", ImageEncoder, ("resnet18",)),
        ("train_crosspoint_seg/best_model.pth", point_encoder, ("dgcnn_seg", 5, 16)),
    ],
)
def test_old_weights_load(file: str, build: Any, words: tuple) -> None:
    model: nn.Module = build(*words)
    report = str(load_pretrained(model, REFERENCE / file))
    saved = torch.load(REFERENCE / file, weights_only=True)
    loaded = model.state_dict()
    assert f"{len(loaded)} entries loaded" in report
    for name, value in loaded.items():
        assert torch.equal(value, saved[name].to(value.dtype)), name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", required=True)
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = write_small_data(Path(folder, "data"))
        result = {case: curve(case, Path(folder, case), data) for case in RUNS}
    cases = (
        f'"{case}": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]"
        for case, lines in result.items()
    )
    (REFERENCE / "curves.json").write_text("{\n" + ",\n".join(cases) + "\n}\n")


if __name__ == "__main__":
    main()
