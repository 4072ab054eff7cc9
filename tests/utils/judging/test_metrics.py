"""Part IoU against a loop written from its definition, and figures over ranks."""

import numpy as np
import pytest
import torch

from datasets.shapenet_part import CATEGORIES as NAMES
from datasets.shapenet_part import FIRST_PART, PARTS_PER_CATEGORY
from utils.judging.metrics import (
    confusion_counts,
    confusion_matrix,
    mean_class_accuracy,
    part_figures,
    shape_iou,
)
from utils.parallel import distributed


def iou_of_one_shape(pred: np.ndarray, target: np.ndarray, category: int) -> float:
    """The definition: over the category's parts, 1 for those in neither."""
    first = sum(PARTS_PER_CATEGORY[:category])
    result = []
    for part in range(first, first + PARTS_PER_CATEGORY[category]):
        both = either = 0
        for p, t in zip(pred, target, strict=True):
            both += p == part and t == part
            either += p == part or t == part
        result.append(both / either if either else 1.0)
    return sum(result) / len(result)


def shapes(count: int, categories: tuple[int, ...], points: int = 30):
    """Predictions, some of other categories' parts; truths with parts missing; the
    categories, drawn from those given."""
    random = np.random.default_rng(count)
    category = random.choice(categories, count)
    target = np.empty((count, points), np.int64)
    for row, c in zip(target, category, strict=True):
        own = FIRST_PART[c] + np.arange(PARTS_PER_CATEGORY[c])
        some = random.permutation(own)[: random.integers(1, len(own) + 1)]
        row[:] = random.choice(some, points)
    pred = np.where(random.random(target.shape) < 0.6, target, (target + 1) % 50)
    return pred, target, category


@pytest.mark.parametrize("categories", [tuple(range(16)), (10,), (1,)])
def test_shape_iou_against_the_definition(categories: tuple[int, ...]) -> None:
    pred, target, category = shapes(40, categories)
    expected = [*map(iou_of_one_shape, pred, target, category)]
    actual = shape_iou(pred, target, category)
    assert actual.shape == (40,)
    assert actual.dtype == torch.float64
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)
    tensors = shape_iou(*map(torch.from_numpy, (pred, target, category)))
    assert torch.equal(actual, tensors)
    for i in (0, 7):  # bit for bit
        alone = shape_iou(*(x[i : i + 1] for x in (pred, target, category)))
        assert torch.equal(alone, actual[i : i + 1])


def test_absent_and_foreign_parts() -> None:
    # A mug has the parts 36 and 37, a bag 4 and 5.
    category = np.array([11, 11, 11, 1])
    target = np.array([[36] * 4, [36] * 4, [36] * 4, [4, 4, 5, 5]])
    pred = np.array([[36] * 4, [36, 36, 36, 37], [4] * 4, [4, 36, 5, 5]])
    actual = shape_iou(pred, target, category).tolist()
    # Right, with part 37 in neither: 1. One point of it predicted: its IoU is 0.
    # Nothing but foreign parts: part 36 is missed, part 37 in neither.
    assert actual == [1.0, 0.375, 0.5, 0.75]
    assert len(shape_iou(pred[:0], target[:0], category[:0])) == 0


def figures(count: int, end: int) -> tuple[dict, dict]:
    """Figures of shapes of which rank 0 holds those before ``end``."""
    rows = slice(None)
    if distributed.world_size() > 1:
        rows = slice(0, end) if distributed.rank() == 0 else slice(end, None)
    return part_figures(*(x[rows] for x in shapes(count, (0, 4, 15))), NAMES)


def test_figures_are_exact_on_any_number_of_ranks(two_ranks) -> None:
    pred, target, category = shapes(9, (0, 4, 15))
    values, by_category = figures(9, 0)
    iou = [*map(iou_of_one_shape, pred, target, category)]
    means = {
        NAMES[c]: np.mean([v for v, k in zip(iou, category, strict=True) if k == c])
        for c in sorted(set(category.tolist()))
    }
    assert list(by_category) == list(means)
    assert np.allclose(list(by_category.values()), list(means.values()), rtol=1e-12)
    parts = sorted(set(target.ravel().tolist()))
    rates = [np.mean(pred[target == part] == part) for part in parts]
    expected = {
        "test_miou": np.mean(iou),
        "test_class_miou": np.mean(list(means.values())),
        "test_accuracy": np.mean(pred == target),
        "test_class_accuracy": np.mean(rates),
    }
    assert list(values) == list(expected)
    assert np.allclose(list(values.values()), list(expected.values()), rtol=1e-12)
    for end in (4, 9, 0):  # uneven shares, and a rank without any shape
        for actual in two_ranks.run(figures, 9, end):
            assert actual == (values, by_category)


def test_confusion_and_class_accuracy_against_loops() -> None:
    target, predicted = np.random.default_rng(0).integers(4, size=(2, 50))
    target[target == 2] = 3  # class 2 does not occur
    counts = np.zeros((5, 5), int)
    for true, guess in zip(target, predicted, strict=True):
        counts[true, guess] += 1
    matrix = confusion_matrix(target, predicted, 5)
    assert (matrix == counts).all()
    counted = confusion_counts(torch.from_numpy(target), torch.eye(5)[predicted])
    assert (counted.view(5, 5).numpy() == counts).all()
    rates = [np.mean(predicted[target == c] == c) for c in (0, 1, 3)]
    assert np.isclose(mean_class_accuracy(matrix), np.mean(rates))
