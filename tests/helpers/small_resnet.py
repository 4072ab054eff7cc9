"""A ResNet with one narrow block: short runs, and checkpoints of a few megabytes.

Importing this module makes ``--image_encoder resnet_small`` known to the scripts; it
has to come before them. As a program it runs a script that way:

    python -m tests.helpers.small_resnet train_crosspoint.py --image_encoder \\
        resnet_small ...
"""

import runpy
import sys
from collections import OrderedDict

from torch import nn
from torchvision.models._api import register_model
from torchvision.models.resnet import BasicBlock

import models

NAME = "resnet_small"


def resnet_small(weights: None = None) -> nn.Module:
    """The parts that ``ImageEncoder`` uses, named as torchvision names them."""
    shorter = nn.Sequential(nn.Conv2d(8, 16, 1, 2, bias=False), nn.BatchNorm2d(16))
    parts = OrderedDict(
        conv1=nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        bn1=nn.BatchNorm2d(8),
        relu=nn.ReLU(),
        layer1=nn.Sequential(BasicBlock(8, 16, stride=2, downsample=shorter)),
        avgpool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(16, 10),
    )
    return nn.Sequential(parts)


if NAME not in models.BACKBONES:
    register_model(NAME)(resnet_small)
    models.BACKBONES = (*models.BACKBONES, NAME)

if __name__ == "__main__":
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
