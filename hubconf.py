"""The encoders by ``torch.hub``, from a clone of this repository or from GitHub.

    encoder = torch.hub.load("FOLDER", "dgcnn_cls", source="local", weights="w.pth")
    features = encoder.features(points)  # (B, 3, N) float32 -> (B, 2 * emb_dims)

Clouds are centred and scaled to the unit sphere, as in training. Hub imports this
folder's packages ``models`` and ``utils``, so the calling program cannot have its own
packages of these names.
"""

import hashlib
import pathlib
import urllib.error
import urllib.parse

import torch
from torch import nn

# Modules, since torch.hub.list shows every function and class that is named here.
import models
from utils.run import checkpoint, network

# numba and threadpoolctl, where they are, make it several times as fast on a CPU.
dependencies = ["torch", "numpy"]


def dgcnn_cls(
    weights: str | None = None, k: int | None = None, emb_dims: int | None = None
) -> nn.Module:
    """DGCNN, pre-trained or fine-tuned for classification, in eval mode.

    Args:
        weights: path or URL of a weight file; None for random weights. A
            ``network.json`` beside it is read too.
        k, emb_dims: neighbours per point and width of the embedding, instead of the
            weights' own.

    Returns:
        A module with ``features(points (B, 3, N)) -> (B, 2 * emb_dims)``; called, it
        gives (projection (B, 256), feature), or a classifier's logits (B, classes).
        Its attribute ``network`` holds K, number of points and class names.

    Raises:
        CheckpointError: if the file cannot be read or is of another network.
    """
    return _network("dgcnn", weights, k, emb_dims)


def dgcnn_partseg(
    weights: str | None = None, k: int | None = None, emb_dims: int | None = None
) -> nn.Module:
    """The part-segmentation DGCNN; as :func:`dgcnn_cls`, with features (B, emb_dims).

    A fine-tuned one, called with points and the category one-hot (B, 16), gives logits
    (B, parts, N).
    """
    return _network("dgcnn_seg", weights, k, emb_dims)


def pointnet_cls(weights: str | None = None, emb_dims: int | None = None) -> nn.Module:
    """PointNet; as :func:`dgcnn_cls`, with features (B, emb_dims)."""
    return _network("pointnet", weights, None, emb_dims)


def _network(
    model: str, weights: str | None, k: int | None, emb_dims: int | None
) -> nn.Module:
    if weights is None:
        spec = network.Network(
            model=model,
            emb_dims=emb_dims or 1024,
            k=k or 15,
            num_points=1024,
            head="projection",
            outputs=None,
            class_names=None,
            origin="random weights",
        )
    else:
        path = _download(weights) if "://" in weights else pathlib.Path(weights)
        spec = network.read_network(path, model=model, k=k, emb_dims=emb_dims)
    module = models.trained_network(
        model, spec.k, spec.emb_dims, spec.head, spec.outputs
    )
    if weights is not None:
        checkpoint.load_encoder(module, str(path), seed=0)
    module.network = spec  # type: ignore[assignment]
    return module.eval()


def _download(url: str) -> pathlib.Path:
    """The file of a URL in Hub's folder, with its ``network.json`` if there is one."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:16]
    folder = pathlib.Path(torch.hub.get_dir(), "checkpoints", f"crosspoint_{digest}")
    path = folder / pathlib.Path(urllib.parse.urlsplit(url).path).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            config_url = urllib.parse.urljoin(url, network.FILE)
            torch.hub.download_url_to_file(config_url, str(folder / network.FILE))
        except urllib.error.HTTPError as error:
            if error.code not in (403, 404):
                raise
        torch.hub.download_url_to_file(url, str(path))
    return path
