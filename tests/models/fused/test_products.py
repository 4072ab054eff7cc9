"""Products by NumPy's BLAS: the numbers and gradients of PyTorch's."""

from __future__ import annotations

import pytest
import torch
from threadpoolctl import threadpool_info

from models.fused.numba.products import linear, product


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def library_threads() -> list[int]:
    return [x["num_threads"] for x in threadpool_info() if x["user_api"] == "blas"]


@pytest.mark.parametrize("shape", [(0, 3, 2), (1, 1, 1), (7, 5, 9), (130, 64, 33)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_product_is_the_sum_over_the_middle(
    threads: int, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    rows, middle, columns = shape
    torch.manual_seed(0)
    a = torch.randn(middle, rows, dtype=dtype).T  # strides of both kinds
    b = torch.randn(middle, columns, dtype=dtype)
    before = library_threads()
    found = product(a, b)
    assert library_threads() == before
    expected = torch.zeros(rows, columns, dtype=torch.float64)
    for k in range(middle):
        expected += a[:, k, None].double() * b[k].double()
    assert found.dtype == dtype
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_gradients_of_linear(threads: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(linear, (x, weight))
    assert torch.autograd.gradcheck(lambda w: linear(x.detach(), w), (weight,))
