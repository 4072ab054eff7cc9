"""The picture encoder: shapes, the head's equation, errors."""

from __future__ import annotations

import pytest
import torch
import torchvision

from models.image import ImageEncoder
from tests.models import reference
from tests.models.reference import randomise, weights_of


@pytest.mark.parametrize("backbone", ["resnet18", "resnet34", "resnet50"])
def test_any_size_of_picture_gives_256_numbers(backbone):
    encoder = ImageEncoder(backbone).eval()
    with torch.inference_mode():
        assert encoder(torch.randn(2, 3, 32, 48)).shape == (2, 256)
        assert encoder(torch.randn(1, 3, 64, 64)).shape == (1, 256)


@pytest.mark.parametrize("training", [True, False])
def test_projection_is_the_head_of_what_torchvisions_network_says(training):
    encoder = randomise(ImageEncoder("resnet18")).train(training)
    weights = weights_of(encoder)
    resnet = torchvision.models.resnet18().double().train(training)
    resnet.fc = torch.nn.Identity()
    resnet.load_state_dict(encoder.resnet.state_dict())
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = reference.projection_head(resnet(images), weights, training)
        torch.testing.assert_close(encoder(images), expected, rtol=1e-7, atol=1e-8)


def test_an_unknown_backbone_is_refused():
    with pytest.raises(ValueError, match=r"'vgg16' is not one of .*resnet50"):
        ImageEncoder("vgg16")


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 4, 32, 32), (2, 32, 32, 3)])
def test_pictures_of_another_shape_are_refused(shape):
    encoder = ImageEncoder("resnet18")
    with pytest.raises(ValueError, match=r"images must be \(B, 3, H, W\), got shape"):
        encoder(torch.zeros(shape))
