"""Pre-training: its two weight files, its probe, the forms of the point operations."""

import math
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from models.crosspoint import MultiView, ViewHeads
from models.dgcnn import DGCNN
from models.fused.clouds import FusedClouds
from models.image import ImageEncoder
from models.partseg import DGCNNPartSeg
from models.pointnet import PointNet
from tests.helpers.runs import metrics, pretrain, weights
from utils.judging import probe
from utils.run import cli


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory, synthetic_root: Path) -> Path:
    """The run folder of one epoch, evaluated by the probe."""
    words = ("--epochs", "1", "--svm_every", "1")
    return pretrain(tmp_path_factory.mktemp("pretrained"), synthetic_root, *words)


@pytest.fixture
def without_modelnet(tmp_path: Path, synthetic_root: Path) -> Path:
    """A ``--data_root`` of rendered shapes alone."""
    data = tmp_path / "data"
    data.mkdir()
    for name in ("ShapeNet", "ShapeNetRendering"):
        (data / name).symlink_to(synthetic_root / name)
    return data


@pytest.fixture
def own_modelnet(without_modelnet: Path, synthetic_root: Path) -> Path:
    """A ``--data_root`` whose ModelNet40 the test may change."""
    name = "modelnet40_ply_hdf5_2048"
    shutil.copytree(synthetic_root / name, without_modelnet / name)
    return without_modelnet


def test_both_encoders_are_written_for_strict_loading(pretrained: Path) -> None:
    for line in metrics(pretrained)[0]:
        both = line["imid_loss"] + line["cmid_loss"]
        assert math.isclose(line["loss"], both, rel_tol=1e-6)
    DGCNN(k=5, emb_dims=16).load_state_dict(weights(pretrained), strict=True)
    images = weights(pretrained, "img_model_best.pth")
    ImageEncoder("resnet_small").load_state_dict(images, strict=True)
    assert all(value.is_contiguous() for value in images.values())
    last = weights(pretrained, "checkpoint_last.pth")  # as the network lies in memory
    weight = last["model"]["image_encoder.resnet.conv1.weight"]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert last["optimizer"]["param_groups"][0]["fused"]


def test_weights_to_start_from_are_loaded_into_both_encoders(
    pretrained: Path, tmp_path: Path, synthetic_root: Path
) -> None:
    first = pretrained / "models"
    run = pretrain(
        *(tmp_path, synthetic_root, "--epochs", "1", "--lr", "1e-30", "--seed", "5"),
        *("--model_path", str(first / "best_model.pth")),
        *("--img_model_path", str(first / "img_model_best.pth")),
    )
    for name, key in (
        ("best_model.pth", "conv4.0.weight"),
        ("img_model_best.pth", "resnet.layer1.0.conv1.weight"),
    ):
        assert torch.equal(weights(pretrained, name)[key], weights(run, name)[key])
    assert (run / "run.log").read_text().count("entries loaded") == 2


def test_the_probe_fits_once_and_covers_the_test_split(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = []

    class Constant:
        def predict(self, features) -> np.ndarray:
            assert len(features) == 16
            return np.arange(16) % 2

    def fit(features, labels, C) -> Constant:
        fitted.append((features.shape, C))
        return Constant()

    monkeypatch.setattr(probe, "fit_linear_svm", fit)
    words = ("--epochs", "3", "--svm_every", "2", "--svm_C", "0.25")
    run = pretrain(tmp_path, synthetic_root, *words)
    assert fitted == [((24, 32), 0.25)] * 2  # after epoch 2, and after the last
    assert ["svm_accuracy" in line for line in metrics(run)[1]] == [False, True, True]


def test_without_modelnet40_the_last_weights_are_the_best(
    tmp_path: Path, without_modelnet: Path
) -> None:
    words = "--epochs 2 --svm_every 1 --save_freq 2 --model dgcnn_seg".split()
    run = pretrain(tmp_path, without_modelnet, *words)
    assert "models/best_model.pth is of the last epoch" in (run / "run.log").read_text()
    last, best = weights(run, "ckpt_epoch_2.pth"), weights(run)
    assert all(torch.equal(last[name], best[name]) for name in best)
    unused = ("bn7", "bn8", "bn9", "bn10")
    state = {n: v for n, v in best.items() if n.split(".")[0] not in unused}
    DGCNNPartSeg(k=5, emb_dims=16).load_state_dict(state, strict=True)
    # A run that never had a probe needs none when it is resumed.
    pretrain(tmp_path, without_modelnet, *words, "--resume")


def test_what_the_probe_has_chosen_is_not_replaced_without_it(
    pretrained: Path, tmp_path: Path, without_modelnet: Path
) -> None:
    shutil.copytree(pretrained, tmp_path / "checkpoints" / "run")
    words = ("--epochs", "1", "--svm_every", "1", "--resume")
    with pytest.raises(cli.UsageError, match="hdf5_2048 is missing, and has chosen"):
        pretrain(tmp_path, without_modelnet, *words)


def test_every_form_of_the_point_operations_gives_the_same_run(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []  # points computed; whether a layout is given
    original = FusedClouds.__init__

    def counted(self: FusedClouds, *args: object) -> None:
        original(self, *args)
        seen.append((len(self.points), args[-1] is not None))

    monkeypatch.setattr(FusedClouds, "__init__", counted)
    losses, rows = [], []
    for form in ("plain", "fused --no-distinct_points", "fused"):
        seen.clear()
        run = pretrain(
            *(tmp_path, synthetic_root, "--epochs", "1", "--overwrite"),
            *("--precision", "fp64", "--edgeconv", *form.split()),
        )
        losses.append([record["loss"] for record in metrics(run)[0]])
        rows.append(sum(points for points, _ in seen))
        # A layout comes with the batch where points are merged.
        assert all(given == (form == "fused") for _, given in seen)
    assert rows[0] == 0 < rows[2] < rows[1]
    for other in losses[1:]:
        assert other == pytest.approx(losses[0], rel=1e-9)


OBJECTIVE = "--model pointnet --epochs 1 --precision fp64".split()
TWO = "--objective multiview --num_images 2 --view_dims 16 8".split()


def test_multi_view_writes_its_heads_apart(
    tmp_path: Path, synthetic_root: Path
) -> None:
    words = (*OBJECTIVE, *TWO, "--imid_weight", "0.5", "--cmid_weight", "2")
    run = pretrain(tmp_path, synthetic_root, *words)
    for line in metrics(run)[0]:
        both = 0.5 * line["imid_loss"] + 2 * line["cmid_loss"]
        assert math.isclose(line["loss"], both, rel_tol=1e-9)
    encoder = PointNet(16).double()
    encoder.load_state_dict(weights(run), strict=True)  # g_0 is its head, no other
    images = ImageEncoder("resnet_small", head=False).double()
    images.load_state_dict(weights(run, "img_model_best.pth"), strict=True)
    heads = ViewHeads(16, images.feature_dim, 16, (16, 8)).double()
    heads.load_state_dict(weights(run, "view_heads.pth"), strict=True)
    whole = MultiView(encoder, images, 16, (16, 8))
    whole.heads = heads
    last = weights(run, "checkpoint_last.pth")["model"]
    assert all(torch.equal(v, last[n]) for n, v in whole.state_dict().items())
    message = "multi-view, after MM-Point, 2 images a shape, weights 0.5 (IMID) and 2"
    assert message in (run / "run.log").read_text()


def test_two_images_change_the_run_and_one_is_the_default(
    tmp_path: Path, synthetic_root: Path
) -> None:
    steps = []
    for words in ("", "--num_images 1", "--num_images 2", "--image_jitter 0"):
        flags = (*OBJECTIVE, *words.split(), "--overwrite")
        steps.append(metrics(pretrain(tmp_path, synthetic_root, *flags))[0])
    default, one, two, still = [[x["loss"] for x in run] for run in steps]
    assert default == one
    assert default[0] != two[0] and default[0] != still[0]
    assert len({run[0]["imid_loss"] for run in steps}) == 1  # the clouds are the same


@pytest.mark.parametrize("objective", [[], TWO])
def test_a_weight_of_zero_leaves_out_what_it_switches_off(
    objective: list[str], tmp_path: Path, synthetic_root: Path
) -> None:
    words = (synthetic_root, *OBJECTIVE, *objective)
    intra = pretrain(tmp_path / "i", *words, "--cmid_weight", "0")
    records, epochs = metrics(intra)
    assert all(line["loss"] == line["imid_loss"] for line in records)
    assert {line["cmid_loss"] for line in records} == {0}
    assert epochs[0]["train_cmid_loss"] == 0
    assert {file.name for file in (intra / "models").glob("*.pth")} == {
        *("best_model.pth", "ckpt_epoch_last.pth"),
        *("checkpoint_last.pth", "checkpoint_previous.pth"),
    }
    last = weights(intra, "checkpoint_last.pth")
    trained = len(list(PointNet(16).parameters()))
    assert len(last["optimizer"]["state"]) == trained
    cross = pretrain(tmp_path / "c", *words, "--imid_weight", "0")
    assert all(line["loss"] == line["cmid_loss"] for line in metrics(cross)[0])
    torch.manual_seed(1)  # the run's
    start = PointNet(16).double()
    same = torch.equal(weights(cross)["inv_head.3.weight"], start.inv_head[3].weight)
    assert same == bool(objective)  # CrossPoint's g_0 also projects for the images


def damaged_share(folder: Path, data: Path) -> str:
    with pytest.raises(Exception) as error:
        pretrain(folder, data, "--svm_every", "1")
    return f"{error.type.__name__}: {error.value}"


def test_damage_in_one_rank_s_share_ends_all_ranks_with_its_message(
    tmp_path: Path, own_modelnet: Path, two_ranks
) -> None:
    path = own_modelnet / "modelnet40_ply_hdf5_2048" / "ply_data_test0.h5"
    with h5py.File(path, "r+") as file:
        file["data"][-1, 5, 2] = np.nan  # rank 1 alone reads this row
    first, second = two_ranks.run(damaged_share, tmp_path, own_modelnet)
    assert first.startswith("FailedElsewhere")
    assert second.startswith("DataError")
    assert "ply_data_test0.h5" in second and "non-finite" in second


def test_a_probe_with_too_few_points_is_refused_before_training(
    tmp_path: Path, own_modelnet: Path
) -> None:
    for path in own_modelnet.glob("modelnet40_ply_hdf5_2048/*.h5"):
        with h5py.File(path, "r+") as file:
            points = file["data"][:, :32]
            del file["data"]
            file["data"] = points
    words = ("--svm_every", "1", "--k", "33")
    with pytest.raises(cli.UsageError, match="32 points, less than --k 33; --svm"):
        pretrain(tmp_path, own_modelnet, *words)
    assert not (tmp_path / "checkpoints").exists()
