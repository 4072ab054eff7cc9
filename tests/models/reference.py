"""The networks and losses once more, written from the equations and slow.

Nothing here imports the code under test. Everything is float64; ``weights`` is a dict
from the names of the weight files to tensors, in which training mode replaces the
running statistics, so that they can be compared afterwards.
"""

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]


def weights_of(module: nn.Module) -> Weights:
    """A float64 copy of the module's weights, the parameters with gradient."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {
        name: value.detach().double().clone().requires_grad_(name in parameters)
        for name, value in module.state_dict().items()
    }


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter and running statistic at random; the module in float64.

    BatchNorm weights get both signs, so that the wrong end of an order shows.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            fan_in = parameter[0].numel() if parameter.dim() > 1 else 1
            parameter.copy_(normal(parameter.shape) / fan_in**0.5)
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * normal(buffer.shape))
            elif name.endswith("running_var"):
                buffer.copy_(0.5 + normal(buffer.shape) ** 2)
    return module


def random_clouds(batch: int, points: int, seed: int = 0, channels: int = 3) -> Tensor:
    """(B, C, N) in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, channels, points)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def neighbours(x: Tensor, k: int) -> Tensor:
    """(B, C, N) -> (B, N, k): all distances of a point, sorted, ties by index."""
    x = x.detach().double().transpose(1, 2)  # (B, N, C)
    square = (x[:, :, None] - x[:, None]).square().sum(3)  # (B, N, N)
    return square.argsort(dim=2, stable=True)[..., :k]


def edges(x: Tensor, idx: Tensor) -> Tensor:
    """(B, C, N), (B, N, K) -> (B, N, K, 2C): [x_j - x_i, x_i] of every edge."""
    rows = [
        torch.cat([x[b, :, j] - x[b, :, i], x[b, :, i]])
        for b, cloud in enumerate(idx.tolist())
        for i, neighbours_of_i in enumerate(cloud)
        for j in neighbours_of_i
    ]
    return torch.stack(rows).view(*idx.shape, -1)


def batch_norm(x: Tensor, weights: Weights, name: str, training: bool) -> Tensor:
    """Over all but the last dimension, which is the channels."""
    mean, var = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
    if training:
        rows = x.reshape(-1, x.shape[-1])
        count = len(rows)
        own_mean = rows.sum(0) / count
        own_var = ((rows - own_mean) ** 2).sum(0) / count
        unbiased = own_var.detach() * count / (count - 1)
        weights[f"{name}.running_mean"] = 0.9 * mean + 0.1 * own_mean.detach()
        weights[f"{name}.running_var"] = 0.9 * var + 0.1 * unbiased
        mean, var = own_mean, own_var
    x_hat = (x - mean) / torch.sqrt(var + 1e-5)
    return x_hat * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def leaky(x: Tensor, slope: float = 0.2) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def first_maximum(x: Tensor, dim: int) -> Tensor:
    """The maximum; of equals, the first one gets the gradient."""
    best, *others = x.unbind(dim)
    for other in others:
        best = torch.where(other > best, other, best)
    return best


def layer(
    x: Tensor, weights: Weights, name: str, training: bool, slope: float = 0.2
) -> Tensor:
    """1x1 convolution without bias, BatchNorm, LeakyReLU; channels last."""
    matrix = weights[f"{name}.0.weight"].flatten(1)  # (C', C)
    return leaky(batch_norm(x @ matrix.T, weights, f"{name}.1", training), slope)


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """With a bias where there is one."""
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)


def edge_conv(
    x: Tensor, k: int, weights: Weights, names: list[str], training: bool
) -> Tensor:
    """(B, C, N) -> (B, C', N): the layers on every edge, maximum over neighbours."""
    y = edges(x, neighbours(x, k))
    for name in names:
        y = layer(y, weights, name, training)  # (B, N, K, C')
    return first_maximum(y, 2).transpose(1, 2)


def projection_head(
    x: Tensor, weights: Weights, training: bool, name: str = "inv_head"
) -> Tensor:
    """Linear, BatchNorm, ReLU, Linear."""
    x = batch_norm(linear(x, weights, f"{name}.0"), weights, f"{name}.1", training)
    return linear(leaky(x, slope=0.0), weights, f"{name}.3")


def dgcnn(points: Tensor, k: int, weights: Weights, training: bool) -> list[Tensor]:
    """EdgeConv four times, a layer on points, both poolings, and :func:`head`."""
    x, outputs = points, []
    for name in ("conv1", "conv2", "conv3", "conv4"):
        x = edge_conv(x, k, weights, [name], training)
        outputs.append(x)
    joined = torch.cat(outputs, 1).transpose(1, 2)  # (B, N, 512)
    x = layer(joined, weights, "conv5", training)  # (B, N, E)
    feature = torch.cat([first_maximum(x, 1), x.sum(1) / x.shape[1]], 1)
    return head(feature, weights, training)


def head(feature: Tensor, weights: Weights, training: bool) -> list[Tensor]:
    """[projection, feature], or [logits] where the weights are a classifier's."""
    if "inv_head.0.weight" in weights:
        return [projection_head(feature, weights, training), feature]
    x = linear(feature, weights, "linear1")
    x = linear(leaky(batch_norm(x, weights, "bn6", training)), weights, "linear2")
    x = leaky(batch_norm(x, weights, "bn7", training))
    return [linear(x, weights, "linear3")]


def pointnet(points: Tensor, _: int, weights: Weights, training: bool) -> list[Tensor]:
    """The MLP on every point, the maximum over the points, and :func:`head`."""
    x = points.transpose(1, 2)  # (B, N, 3)
    for name in ("conv1", "conv2", "conv3", "conv4", "conv5"):
        x = layer(x, weights, name, training, slope=0.0)
    return head(first_maximum(x, 1), weights, training)


def transform(points: Tensor, k: int, weights: Weights, training: bool) -> Tensor:
    """(B, 3, N) -> (B, 3, 3), the spatial transformer's matrix."""
    net = "transform_net"
    names = [f"{net}.conv1", f"{net}.conv2"]
    x = edge_conv(points, k, weights, names, training).transpose(1, 2)
    x = first_maximum(layer(x, weights, f"{net}.conv3", training), 1)  # (B, 1024)
    for name, norm in (
        (f"{net}.linear1", f"{net}.bn3"),
        (f"{net}.linear2", f"{net}.bn4"),
    ):
        x = leaky(batch_norm(linear(x, weights, name), weights, norm, training))
    return linear(x, weights, f"{net}.transform").view(-1, 3, 3)


def partseg(
    points: Tensor, k: int, weights: Weights, training: bool, category=None
) -> list[Tensor]:
    """[projection, feature], or [logits (B, parts, N)] where a category is given."""
    matrix = transform(points, k, weights, training)
    aligned = [cloud.T @ m for cloud, m in zip(points, matrix, strict=True)]  # (N, 3)
    x = torch.stack(aligned).transpose(1, 2)
    outputs = []
    for names in (["conv1", "conv2"], ["conv3", "conv4"], ["conv5"]):
        x = edge_conv(x, k, weights, names, training)
        outputs.append(x)
    local = torch.cat(outputs, 1).transpose(1, 2)  # (B, N, 192)
    feature = first_maximum(layer(local, weights, "conv6", training), 1)  # (B, E)
    if category is None:
        return [projection_head(feature, weights, training), feature]
    label = layer(category.double(), weights, "conv7", training)  # (B, 64)
    whole = torch.cat([feature, label], 1)  # (B, E + 64)
    repeated = torch.stack([whole] * points.shape[2], 1)
    x = torch.cat([repeated, local], 2)  # (B, N, E + 256)
    for name in ("conv8", "conv9", "conv10"):
        x = layer(x, weights, name, training)
    x = x @ weights["conv11.weight"].flatten(1).T
    return [x.transpose(1, 2)]


def nt_xent(z0: Tensor, z1: Tensor, temperature: float) -> Tensor:
    """A double loop over anchors and everything they are compared with."""
    rows = [row / row.pow(2).sum().sqrt() for row in torch.cat([z0, z1])]
    losses = []
    for i, anchor in enumerate(rows):
        partner = (i + len(z0)) % len(rows)
        others = [j for j in range(len(rows)) if j != i]
        assert len(others) == 1 + 2 * len(z0) - 2  # the partner and the negatives
        terms = {j: torch.exp((anchor * rows[j]).sum() / temperature) for j in others}
        losses.append(-torch.log(terms[partner] / sum(terms.values())))
    return sum(losses) / len(losses)


def relative_error(value: Tensor, expected: Tensor, floor: float = 0.0) -> float:
    """Norm of the difference over the norm of ``expected``, or over ``floor``."""
    difference = (value.double() - expected.double()).norm().item()
    return difference / max(expected.double().norm().item(), floor, 1e-300)


def check_close(
    actual: Weights, expected: Weights, tolerance: float, floor: float = 0.0
) -> None:
    """The relative error of each tensor is below the tolerance."""
    errors = {n: relative_error(x, expected[n], floor) for n, x in actual.items()}
    wrong = {name: error for name, error in errors.items() if not error < tolerance}
    assert not wrong, f"relative errors: {wrong}"


def check_gradients(module: nn.Module, weights: Weights) -> None:
    """Every parameter's gradient is that of ``weights``; none may be missing.

    Biases in front of a BatchNorm have no gradient but rounding: norms below 1e-6 of
    the largest one are compared with that instead of with themselves.
    """
    actual = {name: p.grad for name, p in module.named_parameters()}
    missing = [name for name, grad in actual.items() if grad is None]
    assert not missing, f"no gradient: {missing}"
    expected = {name: weights[name].grad for name in actual}
    floor = 1e-6 * max(grad.norm().item() for grad in expected.values())
    check_close(actual, expected, 1e-8, floor)


def check_running_statistics(module: nn.Module, expected: Weights) -> None:
    """Every running mean and variance of the module, by name."""
    actual = {n: x for n, x in module.named_buffers() if "running_" in n}
    assert actual
    check_close(actual, expected, 1e-9)
