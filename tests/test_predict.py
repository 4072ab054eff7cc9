"""predict.py: its numbers are those of the evaluations, its errors one line each."""

import csv
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData

import predict
from datasets import CATEGORIES
from datasets.shapenet_part import ShapeNetPart
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.conftest import UNEVEN_CLASSES
from tests.helpers.runs import evaluated, finetune, run_main, segment
from utils.errors import UsageError
from utils.judging.metrics import shape_iou
from utils.run.checkpoint import save_weights
from utils.run.network import write_network

AS_EVALUATED = ("--as_is", "--sampling", "first")
SMALL = ("--k", "5", "--num_points", "64")
Run = Callable[..., str]


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Run:
    """Run predict.py in an empty folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> str:
        capsys.readouterr()
        predict.main(predict.get_args_parser().parse_args([str(x) for x in words]))
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("encoder") / "w.pth"
    save_weights(DGCNN(k=5, emb_dims=16), path)
    return path


@pytest.fixture(scope="session")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained: a shape's points have different parts."""
    folder = tmp_path_factory.mktemp("segmenter")
    torch.manual_seed(3)
    save_weights(DGCNNPartSeg(k=4, emb_dims=16, num_parts=50), folder / "w.pth")
    args = Namespace(model="dgcnn_seg", emb_dims=16, k=4, num_points=32)
    write_network(folder, args, "parts", 50, CATEGORIES)
    return folder / "w.pth"


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A folder with a cloud, a mesh and a small cloud."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "shapes"
    (folder / "more").mkdir(parents=True)
    np.savetxt(folder / "cloud.xyz", rng.normal(size=(200, 3)) * [1, 2, 3] + 5)
    trimesh.creation.box((1, 2, 3)).export(folder / "more" / "box.obj")
    np.save(folder / "more" / "small.npy", rng.normal(size=(50, 3)))
    return folder


@pytest.mark.parametrize("kind", ["encoder", "classifier", "dgcnn_seg"])
def test_features_are_those_of_the_svm(
    kind: str, run: Run, encoder: Path, tuned: Path, even_root: Path, tmp_path: Path
) -> None:
    weights, flags = encoder, "--emb_dims 16 --wandb disabled"
    if kind == "classifier":
        weights = tuned / "models" / "best_model.pth"
    if kind == "dgcnn_seg":
        weights, flags = tmp_path / "seg.pth", f"{flags} --model {kind}"
        save_weights(DGCNNPartSeg(k=5, emb_dims=16), weights)
    words = (*SMALL, "--model_path", str(weights))
    svm = (*words, "--save_features", "svm.npz")
    run_main("eval_svm", flags, tmp_path, even_root, *svm)
    data = even_root / "modelnet40_ply_hdf5_2048" / "ply_data_test0.h5"
    out = run("features", data, *words, "--out", "f.npz", *AS_EVALUATED)
    mine, theirs = np.load("f.npz"), np.load("svm.npz")["test"]
    assert mine["features"].dtype == np.float32
    assert np.allclose(mine["features"], theirs, rtol=1e-5, atol=1e-6)
    assert list(mine["names"]) == [f"{data}#{row}" for row in range(20)]
    assert f"f.npz: names and features (20, {theirs.shape[1]})" in out
    assert f"{weights}: --" in out  # which values are from where


def test_features_do_not_depend_on_batches_or_other_files(
    run: Run, encoder: Path, shapes: Path
) -> None:
    words = (*SMALL, "--model_path", encoder, "--out", "all.npz")
    out = run("features", shapes, *words)
    small = f"{shapes / 'more' / 'small.npy'} (50)"
    assert f"fewer than 64 points, which are repeated: 1 of the clouds: {small}" in out
    words = (*SMALL, "--model_path", encoder, "--batch_size", 1, "--out", "one.npz")
    run("features", shapes / "more" / "box.obj", *words)
    every, one = np.load("all.npz"), np.load("one.npz")
    row = list(every["names"]).index(str(shapes / "more" / "box.obj"))
    assert np.allclose(every["features"][row], one["features"][0], rtol=1e-5)


@pytest.mark.slow
def test_nearest_are_those_of_the_largest_cosine(
    run: Run, encoder: Path, even_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "SHOWN", 3)
    data = even_root / "modelnet40_ply_hdf5_2048"
    words = (*SMALL, "--model_path", encoder)
    for split, out in (("train", "f.npz"), ("test", "q.npz")):
        run("features", data / f"ply_data_{split}0.h5", *words, "--out", out)
    among, queries = np.load("f.npz"), np.load("q.npz")
    words = (*words, "--among", "f.npz", "--sheet", "near.png", "--top", 4)
    out = run("nearest", data / "ply_data_test0.h5", *words)
    lines = iter(out.splitlines()[1:])
    clouds = among["features"].astype(float)
    lengths = np.linalg.norm(clouds, axis=1)
    for name, query in zip(queries["names"], queries["features"], strict=True):
        assert next(lines) == name
        cosine = clouds @ query / (lengths * np.linalg.norm(query))
        for row in np.argsort(-cosine, kind="stable")[:4]:
            value, actual = next(lines).split()
            assert abs(float(value) - cosine[row]) < 1e-4
            own = list(among["names"]).index(actual)
            assert abs(cosine[own] - cosine[row]) < 1e-6  # itself, or as near
    assert next(lines) == "near.png: 3 clouds and their neighbours"
    assert Image.open("near.png").width > 600


def test_nearest_finds_the_shape_itself_from_another_folder(
    run: Run, encoder: Path, shapes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = (*SMALL, "--model_path", encoder)
    run("features", "shapes", *words, "--out", "f.npz")
    monkeypatch.chdir(shapes)
    (shapes / "more" / "small.npy").unlink()
    words = (*words, "--among", "../f.npz", "--num_points", 60, "--sheet", "near.png")
    out = run("nearest", "cloud.xyz", "more/box.obj", *words, "--top", 9)
    assert "note: ../f.npz was made with --num_points 64, this search has 60" in out
    lines = out.splitlines()
    first = lines.index("cloud.xyz")
    assert lines[first + 1].endswith("shapes/cloud.xyz")
    assert sum(line.startswith(("  0.", "  1.")) for line in lines) == 6
    assert "  not drawn:" in out
    assert (shapes / "near.png").is_file()


def test_classes_are_those_of_the_evaluation(
    run: Run, tuned: Path, uneven_root: Path, tmp_path: Path
) -> None:
    weights = tuned / "models" / "best_model.pth"
    words = ("--eval", "--model_path", str(weights))
    record = evaluated(finetune(tmp_path, uneven_root, *words))
    data = uneven_root / "modelnet40_ply_hdf5_2048" / "ply_data_test0.h5"
    words = ("--model_path", weights, "--top", 9, "--out", "t.csv", *AS_EVALUATED)
    out = run("classify", data, *words)
    with h5py.File(data) as file:
        labels = file["label"][:, 0]
    with open("t.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [f"{data}#{i}" for i in range(len(labels))]
    loss, right = [], []
    for row, label in zip(rows, labels, strict=True):
        values = [float(row[f"probability_{n}"]) for n in range(1, 6)]
        assert abs(sum(values) - 1) < 1e-5
        assert values == sorted(values, reverse=True)
        right.append(row["class_1"] == UNEVEN_CLASSES[label])
        own = next(n for n in range(1, 6) if row[f"class_{n}"] == UNEVEN_CLASSES[label])
        loss.append(-np.log(values[own - 1]))
        assert f"{row['name']}  {row['class_1']} {values[0]:.1%}"[:-2] in out
    assert np.mean(right) == record["test_accuracy"]
    assert abs(np.mean(loss) - record["test_loss"]) < 1e-5


def test_parts_are_those_of_the_evaluation(
    run: Run, segmenter: Path, part_root: Path, tmp_path: Path
) -> None:
    words = ("--eval", "--model_path", str(segmenter))
    record = evaluated(segment(tmp_path / "eval", part_root, *words))
    test = ShapeNetPart(part_root, "test", num_points=32)
    predicted = np.zeros_like(test.parts)
    for category in np.unique(test.labels):
        rows = np.flatnonzero(test.labels == category)
        np.save("x.npy", test.points[rows])
        words = ("--category", CATEGORIES[category], "--out", f"out{category}")
        words = (*words, "--model_path", segmenter)
        run("segment", "x.npy", *words, *AS_EVALUATED)
        for i, row in enumerate(rows):
            name = f"x_{i}" if len(rows) > 1 else "x"
            stored = np.load(f"out{category}/{name}.npz")
            assert np.array_equal(stored["points"], test.points[row])
            predicted[row] = stored["parts"]
            vertex = PlyData.read(f"out{category}/{name}.ply")["vertex"]
            assert np.array_equal(vertex["part"], stored["parts"])
            assert np.array_equal(vertex["x"], test.points[row][:, 0])
    miou = shape_iou(predicted, test.parts, test.labels).mean().item()
    assert len(np.unique(predicted[0])) > 2
    assert abs(miou - record["test_miou"]) < 1e-9
    assert np.mean(predicted == test.parts) == record["test_accuracy"]


def test_every_given_point_has_the_part_of_the_nearest_that_was_sampled(
    run: Run, segmenter: Path, shapes: Path
) -> None:
    words = ("--category", "chair", "--out", "parts", "--model_path", segmenter)
    out = run("segment", shapes, shapes / "cloud.xyz", *words)
    stored = np.load("parts/cloud.npz")
    given = np.loadtxt(shapes / "cloud.xyz")
    assert np.array_equal(stored["points"], given)
    (cloud,) = predict.OwnFiles([shapes / "cloud.xyz"], num_points=32)
    sampled = stored["parts"][cloud.rows]
    assert len(np.unique(sampled)) > 1
    nearest = np.linalg.norm(given[:, None] - given[cloud.rows], axis=2).argmin(axis=1)
    assert np.array_equal(stored["parts"], sampled[nearest])
    assert len(np.load("parts/more/box.npz")["parts"]) == 32
    line = next(x for x in out.splitlines() if "cloud.xyz -> parts/cloud.ply" in x)
    shares = [float(word.strip("%,")) for word in line.split() if "%" in word]
    assert abs(sum(shares) - 100) < 0.3


def test_files_that_differ_in_their_ending_keep_apart(
    run: Run, segmenter: Path, tmp_path: Path
) -> None:
    cloud = np.random.default_rng(0).normal(size=(40, 3))
    np.save(tmp_path / "a.npy", cloud)
    np.savetxt(tmp_path / "a.xyz", cloud)
    words = ("--category", "mug", "--out", "parts", "--model_path", segmenter)
    run("segment", "a.npy", "a.xyz", *words)
    actual = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert actual == ["a.npz", "a.ply", "a_xyz.npz", "a_xyz.ply"]


def test_damaged_files_are_listed_at_the_end(
    run: Run, encoder: Path, shapes: Path, capsys: pytest.CaptureFixture
) -> None:
    (shapes / "bad.ply").write_text("ply\n")
    np.save(shapes / "equal.npy", np.ones((5, 3)))
    words = ("--model_path", encoder, "--out", "f.npz", *SMALL)
    with pytest.raises(SystemExit, match=r"^1$"):
        run("features", shapes, *words)
    assert len(np.load("f.npz")["names"]) == 3
    first, bad, equal = capsys.readouterr().err.splitlines()
    assert first == "could not be used, 2 of 5:"
    assert bad.startswith(f"  {shapes / 'bad.ply'}: not a readable PLY file")
    assert equal.startswith(f"  {shapes / 'equal.npy'}: all of its 5 points are")
    with pytest.raises(SystemExit, match=r"^1$"):
        run("features", shapes / "bad.ply", *words, "--overwrite")
    assert len(np.load("f.npz")["names"]) == 3  # of before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("features no_such --out f.npz", "no_such: no such file or folder"),
        ("features c.npy --out f.csv", "--out f.csv is not the name of a .npz file"),
        ("features c.npy --out old.npz", "--out old.npz exists.*--overwrite"),
        ("segment c.npy --category mug --out old", "--out old exists.*--overwrite"),
        ("segment c.npy --category mug --out c.npy", "c.npy is a file: name a folder"),
        ("features c.npy --out f.npz --num_points 4", "--k 5 is more than .*points 4"),
        ("nearest c.npy --among c.npy", "c.npy: not written by predict.py"),
        ("nearest c.npy --among no.npz", "no.npz: not written by"),
        ("nearest c.npy --among old.npz", "old.npz has features of other weights"),
        ("nearest c.npy --among o.npz --sheet x.gif", "not the name of a .png file"),
        ("classify c.npy --model_path WEIGHTS", "python finetune_cls.py --model_path"),
        (
            "segment c.npy --category mug --out new --model_path WEIGHTS",
            r"its head: projection\): `python train_partseg.py` makes",
        ),
        ("features c.npy --out f.npz --model_path c.npy", "c.npy: not a complete"),
    ],
)
def test_mistakes_are_one_line(
    words: str, message: str, run: Run, encoder: Path, segmenter: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "c.npy", np.random.default_rng(0).normal(size=(80, 3)))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "file").touch()
    old = {"names": ["a"], "features": np.ones((1, 32)), "folder": "", "weights": "x"}
    settings = {"k": 5, "num_points": 64, "sampling": "farthest", "as_is": False}
    settings["up"] = "y"
    np.savez(tmp_path / "old.npz", **old, **settings)
    weights = segmenter if words.startswith("segment") else encoder
    first, *rest = words.replace("WEIGHTS", str(encoder)).split()
    with pytest.raises(UsageError, match=message) as error:
        run(first, "--model_path", weights, *SMALL, *rest)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "f.npz").exists()


def test_classes_without_network_json_are_numbered(
    run: Run, tuned: Path, shapes: Path, tmp_path: Path
) -> None:
    shutil.copy(tuned / "models" / "best_model.pth", tmp_path / "w.pth")
    words = (*SMALL, "--model_path", "w.pth", "--top", 9)
    out = run("classify", shapes, *words)
    assert "no network.json beside the weights: classes are numbered" in out
    (line,) = [x for x in out.splitlines() if x.startswith(str(shapes / "cloud.xyz"))]
    assert sorted(line.split()[1::2]) == ["0", "1", "2", "3", "4"]
