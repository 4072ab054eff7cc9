"""BatchNorm over the global batch: two ranks against BatchNorm of all rows."""

import pytest
import torch
from torch import Tensor, nn

from utils.parallel import distributed
from utils.parallel.batchnorm import GlobalBatchNorm, _OnGPU, synchronise_batchnorm


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_norm(kind: type, channels: int) -> nn.Module:
    """A BatchNorm with weights of both signs and statistics that are not 0 and 1."""
    norm = kind(channels).double()
    with torch.no_grad():
        norm.weight.copy_(normal(channels, seed=11))
        norm.bias.copy_(normal(channels, seed=12))
        norm.running_mean.copy_(normal(channels, seed=13))
        norm.running_var.copy_(normal(channels, seed=14) ** 2 + 0.1)
    return norm


def two_steps(norm: nn.Module, x: Tensor, rows: slice):
    upstream = normal(*x.shape, seed=20)
    for scale in (1.0, -2.0):
        own = (scale * x[rows]).detach().requires_grad_()
        y = norm(own)
        (y * upstream[rows]).sum().backward()
    gradients = [own.grad, norm.weight.grad, norm.bias.grad]
    return y.detach(), *gradients, {n: b.clone() for n, b in norm.named_buffers()}


def two_steps_on_rank(mode: str, x: Tensor, counts: tuple[int, int]):
    """Two steps of a BatchNorm on this rank's rows of ``x``."""
    registered = gpu_kernels_by_definition() if mode == "gpu" else None  # until the end
    norm = random_norm(AsOnGPU if mode == "gpu" else GlobalBatchNorm, x.shape[1])
    first = sum(counts[: distributed.rank()])
    rows = slice(first, first + counts[distributed.rank()])
    result = two_steps(norm.train(mode != "eval"), x, rows)
    del registered
    return result


SHAPES = [
    (nn.BatchNorm1d, (), (1, 1)),
    (nn.BatchNorm1d, (7,), (2, 5)),
    (nn.BatchNorm2d, (4, 3), (3, 2)),
]
WITHOUT_ROWS = (nn.BatchNorm1d, (7,), (4, 0))  # a rank, which takes part on the CPU


@pytest.mark.parametrize(
    ("mode", "kind", "tail", "counts"),
    [
        *[(mode, *shape) for mode in ("training", "eval", "gpu") for shape in SHAPES],
        *[(mode, *WITHOUT_ROWS) for mode in ("training", "eval")],
    ],
)
def test_two_ranks_compute_batch_norm_of_all_rows(two_ranks, mode, kind, tail, counts):
    x = 3 * normal(sum(counts), 6, *tail) + 5
    expected = two_steps(random_norm(kind, 6).train(mode != "eval"), x, slice(None))
    results = two_ranks.run(two_steps_on_rank, mode, x, counts)
    ys, x_grads, weight_grads, bias_grads, buffers = zip(*results, strict=True)
    # Each rank has its own rows' share; data-parallel training adds them up.
    result = (torch.cat(ys), torch.cat(x_grads), sum(weight_grads), sum(bias_grads))
    torch.testing.assert_close(result, expected[:4], rtol=1e-9, atol=1e-10)
    for of_rank in buffers:
        torch.testing.assert_close(of_rank, expected[4], rtol=1e-9, atol=1e-10)


def channels_first(x: Tensor) -> list[int]:
    return [1, -1, *[1] * (x.dim() - 2)]


def gpu_kernels_by_definition() -> list[torch.library.Library]:
    """What PyTorch has on GPUs alone, in its operations, for tensors of the CPU."""

    def stats(x: Tensor, eps: float):
        rows = x.transpose(0, 1).flatten(1)
        return rows.mean(1), (rows.var(1, correction=0) + eps).rsqrt()

    def gather(x, means, inverses, running_mean, running_var, momentum, eps, counts):
        n, counts = counts.sum(), counts[:, None]
        mean = (counts * means).sum(0) / n
        squares = counts * (inverses**-2 - eps + (means - mean) ** 2)
        var = squares.sum(0) / n
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * n / (n - 1), momentum)
        return mean, (var + eps).rsqrt()

    def elemt(x, weight, bias, mean, inverse, eps):
        shape = channels_first(x)
        weight, bias, mean = (t.view(shape) for t in (weight * inverse, bias, mean))
        return (x - mean) * weight + bias

    def reduce(grad, x, mean, inverse, weight, *_: bool):
        dims = [0, *range(2, x.dim())]
        centred = x - mean.view(channels_first(x))
        sums = grad.sum(dims), (grad * centred).sum(dims)
        return *sums, sums[1] * inverse, sums[0]

    def backward(grad, x, mean, inverse, weight, sum_grad, sum_product, counts):
        shape, n = channels_first(x), counts.sum()
        slope = (inverse**2 * sum_product / n).view(shape)
        centred = grad - (sum_grad / n).view(shape) - (x - mean.view(shape)) * slope
        return centred * (weight * inverse).view(shape)

    library = torch.library.Library("aten", "IMPL")
    for name, function in {
        "batch_norm_stats": stats,
        "batch_norm_gather_stats_with_counts": gather,
        "batch_norm_elemt": elemt,
        "batch_norm_backward_reduce": reduce,
        "batch_norm_backward_elemt": backward,
    }.items():
        library.impl(name, function, "CPU")
    return [library]


class AsOnGPU(GlobalBatchNorm):
    """The operations that run on GPUs, whatever the device of the input."""

    def forward(self, x: Tensor) -> Tensor:
        self.num_batches_tracked.add_(1)
        running = (self.running_mean, self.running_var, self.momentum)
        return _OnGPU.apply(x, self.weight, self.bias, *running, self.eps)


def low_precision_on_rank(x: Tensor) -> tuple[Tensor, Tensor]:
    norm = GlobalBatchNorm(4).train()
    own = x.chunk(2)[distributed.rank()]
    return norm(own).detach(), norm.running_var


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_is_kept_and_statistics_are_exact(two_ranks, dtype):
    x = (normal(8, 4, 5) + 1000).to(dtype)  # the variance is small beside the mean
    norm = nn.BatchNorm1d(4).double().train()
    expected = norm(x.double()).detach()
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    results = two_ranks.run(low_precision_on_rank, x)
    for rows, (y, var) in zip(expected.chunk(2), results, strict=True):
        assert y.dtype == dtype and var.dtype == torch.float32
        torch.testing.assert_close(y.double(), rows, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(var.double(), norm.running_var, rtol=1e-4, atol=0)


def one_value_on_rank() -> str:
    x = normal(1 - distributed.rank(), 4)  # rank 1 has none
    with pytest.raises(ValueError) as error:
        GlobalBatchNorm(4).double().train()(x)
    return str(error.value)


def test_one_value_of_each_channel_in_the_global_batch_is_refused(two_ranks):
    for text in two_ranks.run(one_value_on_rank):
        assert "the global batch has one; raise --batch_size" in text


def test_one_process_computes_batch_norm():
    x = normal(5, 6, 7)
    actual = two_steps(random_norm(GlobalBatchNorm, 6).train(), x, slice(None))
    expected = two_steps(random_norm(nn.BatchNorm1d, 6).train(), x, slice(None))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    with pytest.raises(ValueError, match="at least 2 dimensions"):
        GlobalBatchNorm(6)(torch.zeros(6))


def test_synchronise_keeps_names_tensors_and_settings():
    norm = nn.BatchNorm1d(4, eps=1e-3, momentum=0.3).eval()
    model = nn.ModuleDict({"conv": nn.Sequential(nn.Linear(3, 4), norm), "bn": norm})
    before = model.state_dict(keep_vars=True)
    assert synchronise_batchnorm(model) is model
    assert type(norm) is GlobalBatchNorm and model["bn"] is model["conv"][1] is norm
    state = model.state_dict(keep_vars=True)
    assert list(state) == list(before)
    assert all(state[name] is before[name] for name in before)
    assert (norm.eps, norm.momentum, norm.training) == (1e-3, 0.3, False)
