"""Classifiers of frozen features: linear SVM, k-NN, few labels; on any test clouds."""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from utils.judging.fewshot import SupportSVM
from utils.judging.knn import knn_predict
from utils.judging.metrics import smallest_class
from utils.judging.svm import LinearSVM
from utils.parallel.seed import LABELS, generator


def check_labels_per_class(
    labels: np.ndarray, class_names: Sequence[str], counts: Sequence[int]
) -> None:
    """Raise a ValueError if there are fewer labels of a class than are to be drawn."""
    name, clouds = smallest_class(labels, class_names)
    most = max(counts, default=0)
    if clouds < most:
        raise ValueError(
            f"--labels_per_class {most}: class '{name}' has {clouds} training clouds: "
            f"use {clouds} or less"
        )


def draw_labelled(labels: np.ndarray, count: int, seed: int, draw: int) -> np.ndarray:
    """Rows of ``count`` clouds of every class that occurs in ``labels`` (M,).

    A function of labels, seed and draw; a larger count contains the smaller ones.
    """
    random = generator(LABELS, seed, draw)
    rows = [random.permutation(np.flatnonzero(labels == c)) for c in np.unique(labels)]
    return np.concatenate([class_rows[:count] for class_rows in rows])


def judge_clouds(
    svm: LinearSVM,
    train: tuple[np.ndarray, np.ndarray],
    tests: Mapping[str, np.ndarray],
    labels: np.ndarray,
    knn: int,
    labels_per_class: Sequence[int] = (),
    draws: int = 10,
    seed: int = 1,
) -> dict[str, dict[str, float]]:
    """Test accuracies of every classifier, on clean clouds and corrupted copies.

    With few labels it is a :class:`utils.judging.fewshot.SupportSVM` with C = 1: there
    are no labels left to choose C on.

    Args:
        svm: fitted to the training rows.
        train: features (M, F) and labels (M,).
        tests: features (T, F) of each copy of the test clouds, "clean" first.
        labels: (T,) of the test clouds.
        knn: neighbours that vote; 0 for no k-NN.
        labels_per_class: numbers of labelled clouds per class to fit an SVM to.
        draws: draws for each of these numbers.
        seed: for the draws.

    Returns:
        By copy: ``accuracy`` of the SVM, ``knn_accuracy``, ``labels_<n>_accuracy`` and
        ``labels_<n>_deviation``, mean and population deviation over the draws. If there
        are corrupted copies, also their ``mean``; its deviation is that of the draws'
        means.
    """
    all_tests = np.concatenate(list(tests.values()))  # (copies * T, F)
    copies = [*tests, "mean"] if len(tests) > 1 else [*tests]

    def accuracies(predicted: np.ndarray) -> np.ndarray:
        rates = (predicted.reshape(-1, len(labels)) == labels).mean(axis=1)
        return np.append(rates, rates[1:].mean()) if len(rates) > 1 else rates

    # By record key, the accuracies (copies,) of each fitted classifier.
    scores = {"accuracy": [accuracies(svm.predict(all_tests))]}
    if knn:
        scores["knn_accuracy"] = [accuracies(knn_predict(*train, all_tests, knn))]
    for count in labels_per_class:
        drawn = [draw_labelled(train[1], count, seed, draw) for draw in range(draws)]
        scores[f"labels_{count}_accuracy"] = [
            accuracies(SupportSVM(train[0][rows], train[1][rows]).predict(all_tests))
            for rows in drawn
        ]
    figures: dict[str, dict[str, float]] = {copy: {} for copy in copies}
    for judge, rates in scores.items():
        for copy, values in zip(copies, np.transpose(rates), strict=True):
            figures[copy][judge] = float(np.mean(values))
            if judge.startswith("labels_"):
                deviation = judge.replace("accuracy", "deviation")
                figures[copy][deviation] = float(np.std(values))
    return figures


def judges_table(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A line per classifier, a column per copy of the test clouds, in %.

    ``figures`` are those of :func:`judge_clouds`; other keys of a record are left out.
    """
    lines = [" " * 9 + "".join(f"{copy:>17}" for copy in figures)]
    for judge in figures["clean"]:
        label = {"accuracy": "SVM", "knn_accuracy": "k-NN"}.get(judge, "")
        if few := re.fullmatch(r"labels_(\d+)_accuracy", judge):
            label = f"{few[1]} label{'s' * (few[1] != '1')}"
        if not label:
            continue
        cells = []
        for values in figures.values():
            deviation = values.get(judge.replace("accuracy", "deviation"))
            spread = "" if deviation is None else f" ± {deviation:.2%}"
            cells.append(f"{values[judge]:.2%}{spread}")
        lines.append(f"{label:<9}" + "".join(f"{cell:>17}" for cell in cells))
    return "\n".join(lines)
