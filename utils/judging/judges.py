"""Every judge of frozen features: linear SVM, k-NN, few labels; on any test clouds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from utils.judging.few_labels import few_label_accuracies
from utils.judging.knn import knn_predict
from utils.judging.svm import LinearSVM

# By judge, as records name it, its accuracies: one, or one of each draw of few labels.
Scores = dict[str, list[float]]
Figures = dict[str, float]


def judge_clouds(
    svm: LinearSVM,
    train: tuple[np.ndarray, np.ndarray],
    tests: Mapping[str, np.ndarray],
    labels: np.ndarray,
    knn: int,
    labels_per_class: Sequence[int] = (),
    draws: int = 10,
    seed: int = 1,
) -> dict[str, Figures]:
    """Test accuracies of every judge, on clean clouds and corrupted copies of them.

    Args:
        svm: fitted to the training rows.
        train: features (M, F) and labels (M,).
        tests: features (T, F) of each copy of the test clouds, "clean" first.
        labels: (T,) of the test clouds.
        knn: neighbours that vote; 0 for no k-NN.
        labels_per_class: numbers of labels to fit an SVM to.
        draws: of each of these numbers.
        seed: of the draws.

    Returns:
        By copy: ``accuracy`` of the SVM, ``knn_accuracy``, ``labels_<n>_accuracy`` and
        ``labels_<n>_deviation``, mean and population deviation over the draws. If there
        are corrupted copies, also their ``mean``; its deviation is that of the draws'
        means.
    """
    scores = {
        copy: _scores(svm, train, (own, labels), knn, labels_per_class, draws, seed)
        for copy, own in tests.items()
    }
    if corrupted := [own for copy, own in scores.items() if copy != "clean"]:
        scores["mean"] = {
            judge: np.mean([own[judge] for own in corrupted], axis=0).tolist()
            for judge in corrupted[0]
        }
    return {copy: _figures(own) for copy, own in scores.items()}


def _scores(
    svm: LinearSVM,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    knn: int,
    labels_per_class: Sequence[int],
    draws: int,
    seed: int,
) -> Scores:
    found = {"accuracy": [svm.score(*test)]}
    if knn:
        predicted = knn_predict(*train, test[0], knn)
        found["knn_accuracy"] = [float(np.mean(predicted == test[1]))]
    for count in labels_per_class:
        accuracies = few_label_accuracies(train, test, count, draws, seed)
        found[f"labels_{count}_accuracy"] = accuracies
    return found


def _figures(scores: Scores) -> Figures:
    found = {}
    for judge, accuracies in scores.items():
        found[judge] = float(np.mean(accuracies))
        if judge.startswith("labels_"):
            deviation = judge.replace("accuracy", "deviation")
            found[deviation] = float(np.std(accuracies))
    return found


def judges_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A line for each judge, a column for each copy of the test clouds, in %.

    Args:
        figures: of :func:`judge_clouds`; other keys of a record are left out.
    """
    lines = [" " * 9 + "".join(f"{copy:>17}" for copy in figures)]
    for judge in figures["clean"]:
        label = _label(judge)
        if not label:
            continue
        cells = []
        for found in figures.values():
            deviation = found.get(judge.replace("accuracy", "deviation"))
            spread = "" if deviation is None else f" ± {deviation:.2%}"
            cells.append(f"{found[judge]:.2%}{spread}")
        lines.append(f"{label:<9}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)


def _label(judge: str) -> str:
    """How the table calls a judge; "" for other keys of a record."""
    if judge.startswith("labels_") and judge.endswith("_accuracy"):
        count = judge.split("_")[1]
        return f"{count} label{'s' * (count != '1')}"
    return {"accuracy": "SVM", "knn_accuracy": "k-NN"}.get(judge, "")
