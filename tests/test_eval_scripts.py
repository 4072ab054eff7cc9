"""The evaluations of a frozen encoder, by SVM and by few-shot episodes: their numbers
against scikit-learn's, honest choices, files, refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.svm import SVC

import eval_fewshot
import eval_svm
from datasets import SCANOBJECTNN_VARIANTS, labelled, labelled_clouds
from datasets.corruptions import KINDS, corrupted
from datasets.labelled import ModelNet40
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.conftest import UNEVEN_CLASSES
from tests.helpers.runs import evaluated, judge_fewshot, judge_svm
from utils.judging.features import extract_features
from utils.judging.fewshot import evaluate_episodes
from utils.judging.judges import judge_clouds
from utils.judging.svm import fit_linear_svm, held_out_split
from utils.run import cli
from utils.run.checkpoint import save_weights
from utils.run.network import settle

BOTH = {"svm": judge_svm, "fewshot": judge_fewshot}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(3)
    save_weights(DGCNN(k=5, emb_dims=16), tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize("judge", BOTH.values(), ids=BOTH)
def test_two_processes_give_the_numbers_of_one(
    judge, tmp_path: Path, weights: Path, even_root: Path, two_ranks
) -> None:
    words = ["--model_path", str(weights), "--corrupt", "2"]
    if judge is judge_svm:
        words += "--C 1 100 --knn 4 --labels_per_class 1 3 --draws 4".split()
    one = judge(tmp_path / "one", even_root, *words)
    two = two_ranks.run(judge, tmp_path / "two", even_root, *words)[0]
    assert evaluated(one) == evaluated(two)


@pytest.mark.parametrize("judge", BOTH.values(), ids=BOTH)
def test_the_weights_that_are_judged_are_not_deleted(
    judge, tmp_path: Path, weights: Path, even_root: Path
) -> None:
    folder = tmp_path / "checkpoints" / "run"
    folder.mkdir(parents=True)
    path = weights.rename(folder / "w.pth")
    with pytest.raises(cli.UsageError, match=r"would delete .*w\.pth"):
        judge(tmp_path, even_root, "--model_path", str(path))
    assert path.is_file()


@pytest.mark.parametrize(
    ("judges", "words", "message"),
    [
        (BOTH, "--k 65", "--k 65"),
        (BOTH, "--model_path no.pth", r"no\.pth: no such file"),
        (["fewshot"], "--m_shot 3", r"class 'cross' has 1 samples.* --m_shot 3 "),
        (["fewshot"], "--k_way 6", "--k_way 6: the data set has 4 classes"),
        (["fewshot"], "--k_way 1", "--k_way 1 leaves nothing to classify"),
        (["fewshot"], "--table", "--table sets --k_way and --m_shot"),
        (["svm"], "--labels_per_class 1 2", "--labels_per_class 2: class 'cross' has"),
        (
            *(["svm"], "--save_features f.npz --dataset modelnet40 scanobjectnn"),
            "--save_features .*takes one --dataset at a time",
        ),
        *(
            (["svm"], f"--save_features {name}", r"--save_features .*not NAME\.npz in")
            for name in ("no/f.npz", "file/f.npz", "f")
        ),
    ],
)
def test_bad_requests_stop_before_anything_is_written(
    judges, words: str, message: str, tmp_path: Path, uneven_root: Path
) -> None:
    (tmp_path / "file").touch()
    flags = ("--model_path", "none", *words.split())
    for name in judges:
        with pytest.raises(cli.UsageError, match=message):
            BOTH[name](tmp_path, uneven_root, *flags)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("script", "points", "k", "published"),
    [
        (eval_svm, 1024, 15, {"C": [0.1], "knn": 20, "labels_per_class": []}),
        (eval_fewshot, 2048, 5, {"n_query": 20, "n_runs": 50, "split": "train"}),
    ],
)
def test_the_defaults_are_the_published_protocol(
    script, points: int, k: int, published: dict, tmp_path: Path
) -> None:
    published |= {"num_points": points, "k": k, "emb_dims": 1024, "model": "dgcnn"}
    published |= {"dataset": ["modelnet40"], "variant": "obj_bg", "seed": 1}
    save_weights(DGCNN(), tmp_path / "w.pth")  # no network.json: as the paper's files
    for path in ("none", str(tmp_path / "w.pth")):
        args = script.get_args_parser().parse_args(["--model_path", path])
        settle(args, script.PUBLISHED)
        assert vars(args).items() >= {**published, "corrupt": 0}.items()


@pytest.mark.parametrize("seed", [1, 2])
def test_C_is_chosen_without_test_data_and_files_agree(
    seed: int, tmp_path: Path, weights: Path, even_root: Path
) -> None:
    words = f"--C 100 1 10 --seed {seed} --save_features {tmp_path / 'f.npz'}".split()
    run = judge_svm(tmp_path, even_root, "--model_path", str(weights), *words)
    line = evaluated(run)
    saved = np.load(tmp_path / "f.npz")
    train, test = saved["train"].astype(float), saved["test"].astype(float)
    labels, truth = saved["train_labels"], saved["test_labels"]
    assert (train.shape, test.shape) == ((30, 32), (20, 32))
    assert [row["C"] for row in line["table"]] == [1, 10, 100]
    kept, held = held_out_split(labels, seed)
    accuracy, predicted = {}, {}
    for row in line["table"]:
        C = row["C"]
        svm = SVC(kernel="linear", C=C).fit(train[kept], labels[kept])
        accuracy[C] = svm.score(train[held], labels[held])
        predicted[C] = SVC(kernel="linear", C=C).fit(train, labels).predict(test)
        assert row["held_out"] == accuracy[C]
        assert row["test"] == np.mean(predicted[C] == truth)
    chosen = max(accuracy, key=lambda C: (accuracy[C], -C))
    assert line["C"] == chosen
    assert line["accuracy"] == np.mean(predicted[chosen] == truth)

    counts = np.zeros((5, 5), int)  # true classes down
    np.add.at(counts, (truth, predicted[chosen]), 1)
    assert (counts != counts.T).any()
    text = (run / "confusion_modelnet40.csv").read_text()
    assert [line.split(",") for line in text.splitlines()] == [
        ["true\\predicted", *UNEVEN_CLASSES],
        *([name, *map(str, n)] for name, n in zip(UNEVEN_CLASSES, counts, strict=True)),
    ]
    log = (run / "run.log").read_text()
    assert "<- chosen on held-out data" in log
    assert "best of the table, chosen on test data" in log
    assert f"{len(DGCNN(5, 16).state_dict())} entries loaded" in log


def copies(encoder: DGCNN, clouds: ModelNet40, *setting: int) -> dict[str, np.ndarray]:
    """Features of the clouds, corrupted in every way with that severity and seed."""
    return {
        kind: extract_features(
            encoder,
            corrupted(clouds.points, kind, *setting, 0),
            32,
        )
        for kind in KINDS
    }


def test_all_judges_classify_clean_and_corrupted_clouds(
    tmp_path: Path, even_root: Path
) -> None:
    words = "--C 10 --knn 3 --labels_per_class 1 4 --draws 3 --corrupt 2 --seed 5"
    words += f" --model_path none --save_features {tmp_path / 'f.npz'}"
    run = judge_svm(tmp_path, even_root, *words.split())
    line = evaluated(run)
    arrays = np.load(tmp_path / "f.npz")
    train = arrays["train"], arrays["train_labels"]
    torch.manual_seed(5)
    encoder, clouds = DGCNN(k=5, emb_dims=16), ModelNet40(even_root, "test", 64)
    tests = {"clean": arrays["test"], **copies(encoder, clouds, 2, 5)}
    svm = fit_linear_svm(*train, 10.0)
    expected = judge_clouds(svm, train, tests, clouds.labels, 3, (1, 4), 3, 5)
    clean = expected.pop("clean")
    assert {name: line[name] for name in clean} == clean
    assert line["corrupted"] == expected
    assert "one-sided" in (run / "run.log").read_text()


def test_the_segmentation_encoder_and_the_variants_of_scanobjectnn(
    tmp_path: Path, synthetic_root: Path
) -> None:
    save_weights(DGCNNPartSeg(k=5, emb_dims=16), tmp_path / "w.pth")
    words = (
        f"--model dgcnn_seg --model_path {tmp_path / 'w.pth'} --dataset scanobjectnn"
    )
    words += f" --save_features {tmp_path / 'f.npz'}"
    features = []
    for variant in ("obj_only", "pb_t50_rs"):
        judge_svm(tmp_path, synthetic_root, *words.split(), "--variant", variant)
        features.append(np.load(tmp_path / "f.npz")["train"])
    assert features[0].shape == features[1].shape == (24, 16)
    assert not np.array_equal(*features)


def test_names_known_without_pytorch_are_those_of_the_readers() -> None:
    assert tuple(labelled.VARIANTS) == SCANOBJECTNN_VARIANTS


def test_split_and_seed_choose_the_episodes(
    tmp_path: Path, weights: Path, even_root: Path
) -> None:
    encoder, actual = DGCNN(k=5, emb_dims=16), []
    encoder.load_state_dict(torch.load(weights), strict=True)
    for split, seed in (("train", 1), ("test", 1), ("train", 2)):
        words = ("--model_path", str(weights), "--split", split, "--seed", str(seed))
        run = judge_fewshot(tmp_path, even_root, *words)
        line = evaluated(run)
        clouds = labelled_clouds("modelnet40", even_root, split, 64)
        features = extract_features(encoder, clouds.points, 32)
        expected = evaluate_episodes(features, clouds.labels, 3, 2, 2, 8, seed)
        assert line["accuracies"] == list(expected.accuracies)
        assert (line["k_way"], line["m_shot"]) == (3, 2)
        assert "3 ways  2 shots" in (run / "run.log").read_text()
        actual.append(line["accuracies"])
    assert actual[0] not in (actual[1], actual[2])


def test_corrupted_queries_of_the_same_episodes(
    tmp_path: Path, even_root: Path
) -> None:
    words = "--model_path none --corrupt 3 --seed 4".split()
    run = judge_fewshot(tmp_path, even_root, *words)
    line = evaluated(run)
    torch.manual_seed(4)
    encoder, clouds = DGCNN(k=5, emb_dims=16), ModelNet40(even_root, "train", 64)
    clean = extract_features(encoder, clouds.points, 32)
    setting = (clean, clouds.labels, 3, 2, 2, 8, 4)
    expected = evaluate_episodes(*setting, copies(encoder, clouds, 3, 4))
    assert line["mean"] == expected.mean
    mean = line["corrupted"].pop("mean")
    assert line["corrupted"] == expected.copies
    assert mean == pytest.approx(np.mean([*expected.copies.values()]))
    assert "corrupted: turned " in (run / "run.log").read_text()
