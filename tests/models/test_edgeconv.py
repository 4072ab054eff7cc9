"""EdgeConv against a loop over every edge."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.edgeconv import edge_conv, edge_features, edge_layer
from tests.models import reference
from tests.models.reference import random_clouds, randomise, weights_of

K = 5


def layers(*widths: int, seed: int = 1) -> nn.Sequential:
    """Edge layers of these widths at random: weights of both signs, and one zero."""
    pairs = zip([2 * widths[0], *widths[1:-1]], widths[1:], strict=True)
    module = randomise(nn.Sequential(*[edge_layer(a, b) for a, b in pairs]), seed)
    for layer in module:
        layer[1].weight.data[2] = 0.0
        assert (layer[1].weight > 0).any() and (layer[1].weight < 0).any()
    return module


def both(module: nn.Sequential, x: torch.Tensor, training: bool):
    """Outputs, input gradients and reference weights of the code and the loop."""
    module.train(training)
    weights = weights_of(module)  # before the forward pass changes the statistics
    x = x.clone().requires_grad_()
    y = edge_conv(x, K, *module)
    x_ref = x.detach().clone().requires_grad_()
    names = [str(i) for i in range(len(module))]
    y_ref = reference.edge_conv(x_ref, K, weights, names, training)
    upstream = random_clouds(*y.shape[::2], seed=9, channels=y.shape[1])
    (y * upstream).sum().backward()
    (y_ref * upstream).sum().backward()
    return (y, x.grad), (y_ref, x_ref.grad), weights


def test_edge_features_are_the_difference_then_the_centre():
    x = random_clouds(2, 9, channels=4)
    idx = torch.randint(0, 9, (2, 9, 3), generator=torch.Generator().manual_seed(0))
    found = edge_features(x, idx)
    assert found.shape == (2, 8, 9, 3)
    torch.testing.assert_close(found, reference.edges(x, idx).permute(0, 3, 1, 2))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("widths", [(3, 8), (6, 8), (3, 8, 7)])
def test_edge_conv_is_the_loop_with_gradients_and_statistics(widths, training):
    module = layers(*widths)
    x = random_clouds(2, 14, seed=3, channels=widths[0])
    (y, grad), (y_ref, grad_ref), weights = both(module, x, training)
    assert y.shape == (2, widths[-1], 14)
    torch.testing.assert_close(y, y_ref, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(grad, grad_ref, rtol=1e-8, atol=1e-9)
    reference.check_gradients(module, reference.gradients(weights))
    reference.check_running_statistics(module, weights)


def test_running_variance_is_unbiased_over_all_edges():
    module = layers(3, 8)
    before = module[0][1].running_var.clone()
    x = random_clouds(2, 6)
    module.train()
    edge_conv(x, K, *module)
    edges = reference.edges(x, reference.neighbours(x, K)).reshape(-1, 6)
    y = edges @ module[0][0].weight.flatten(1).T
    assert len(y) == 2 * 6 * K
    expected = 0.9 * before + 0.1 * y.var(0, correction=1)
    torch.testing.assert_close(module[0][1].running_var, expected.detach())
    assert module[0][1].num_batches_tracked == 1


def test_eval_mode_leaves_the_statistics_alone():
    module = layers(3, 8).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    edge_conv(random_clouds(2, 10), K, *module)
    after = module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize("training", [True, False])
def test_copies_of_a_point_share_output_and_gradient(training):
    """Copies tie in every comparison, so only the sum of their gradients is defined."""
    module = layers(3, 8)
    x = random_clouds(2, 14, seed=4)
    copies = [0, 2, 5, 6, 9, 11, 13]
    x[:, :, copies] = x[:, :, :1]
    (y, grad), (y_ref, grad_ref), weights = both(module, x, training)
    torch.testing.assert_close(y, y_ref, rtol=1e-9, atol=1e-11)
    reference.check_gradients(module, reference.gradients(weights))
    reference.check_running_statistics(module, weights)
    others = [i for i in range(14) if i not in copies]
    for chosen in (grad, grad_ref):
        chosen[:, :, 0] = chosen[:, :, copies].sum(2)
    kept = [0, *others]
    torch.testing.assert_close(
        grad[:, :, kept], grad_ref[:, :, kept], rtol=1e-8, atol=1e-9
    )


def test_k_equal_n_and_k_above_n():
    module = layers(3, 8).eval()
    x = random_clouds(1, K)
    expected = reference.edge_conv(x, K, weights_of(module), ["0"], False)
    torch.testing.assert_close(edge_conv(x, K, *module), expected)
    with pytest.raises(ValueError, match=f"{K + 1} neighbours"):
        edge_conv(x, K + 1, *module)
