"""What guards the weights before they are written."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.training import all_finite


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_number_that_is_not_finite_is_found(bad: float) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert all_finite(model.parameters())
    with torch.no_grad():
        model[1].bias[1] = bad
    assert not all_finite(model.parameters())
