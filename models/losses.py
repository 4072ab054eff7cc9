"""NT-Xent over the global batch, the objectives, smoothed cross-entropy."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.parallel import distributed


class NTXentLoss(nn.Module):
    """Normalised-temperature cross-entropy (SimCLR; CrossPoint equations 1 and 2).

    With L2-normalised rows, B pairs and the 2B rows ``r = [z0; z1]``, the loss of
    anchor i with partner p(i) is ``-log exp(r_i.r_p(i)/T) / sum_{j != i}
    exp(r_i.r_j/T)``; it is averaged over the 2B anchors, each with 2B - 2 negatives
    from the global batch.

    Args:
        temperature: T.
        gather: take the negatives from all ranks. Each rank returns the mean over its
            own anchors. The mean over the ranks is the global loss, and with
            DistributedDataParallel's averaging the gradients are those of the global
            loss. If False, the loss is that of the rank's own batch.

    Forward:
        z0 (B, D), z1 (B, D), the same B on every rank -> scalar. Computed in float32
        or float64 even under autocast.

    Raises:
        ValueError: if the temperature is not positive or the shapes differ.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = True) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(
                f"temperature {temperature} is not above 0 (--temperature)"
            )
        self.temperature = temperature
        self.gather = gather

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        if z0.shape != z1.shape or z0.dim() != 2:
            raise ValueError(
                "NT-Xent compares (B, D) with (B, D), got "
                f"{tuple(z0.shape)} and {tuple(z1.shape)}"
            )
        with torch.autocast(z0.device.type, enabled=False):
            precision = torch.promote_types(z0.dtype, torch.float32)
            pairs = torch.stack([z0.to(precision), z1.to(precision)], dim=1)
            pairs = F.normalize(pairs, dim=2)  # (b, 2, D)
            all_pairs, first = pairs, 0  # first: where this rank's rows begin
            if self.gather:
                all_pairs = distributed.gather_rows(pairs)  # (B, 2, D)
                first = distributed.rank() * len(pairs)
            anchors = pairs.transpose(0, 1).flatten(0, 1)  # (2b, D): z0, then z1
            rows = all_pairs.transpose(0, 1).flatten(0, 1)  # (2B, D)
            local = first + torch.arange(len(pairs), device=rows.device)
            self_index = torch.cat([local, local + len(all_pairs)])
            partner = torch.cat([local + len(all_pairs), local])
            logits = anchors @ rows.T / self.temperature  # (2b, 2B)
            logits = logits.scatter(1, self_index[:, None], float("-inf"))
            return F.cross_entropy(logits, partner)


def crosspoint_loss(
    z1: Tensor,
    z2: Tensor,
    z_image: Tensor | None,
    criterion: Callable[[Tensor, Tensor], Tensor],
    imid_weight: float = 1.0,
    cmid_weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The CrossPoint objective (equations 3 to 5), intra-modal plus cross-modal.

    The mean of both clouds is paired with the image; of V images with the mean of their
    projections, as in the paper's ablation of the number of images (its code uses one
    image, see docs/objectives.md). Both means are taken before normalisation, in
    float32 or float64 also under autocast.

    Args:
        z1, z2: (B, D) projections of the two views.
        z_image: projections of the images, (B, D), or (B, V, D) of V images each; None
            if cmid_weight is 0.
        criterion: :class:`NTXentLoss`.
        imid_weight, cmid_weight: weights of the two losses. A loss of weight 0 is not
            computed, has no gradient and is returned as 0.

    Returns:
        total, IMID, CMID: scalars, total = imid_weight IMID + cmid_weight CMID.
    """
    imid = cmid = z1.new_zeros(())
    if imid_weight:
        imid = criterion(z1, z2)
    if cmid_weight:
        assert z_image is not None
        precision = torch.promote_types(z1.dtype, torch.float32)
        if z_image.dim() == 3:
            z_image = z_image.to(precision).mean(dim=1)
        cmid = criterion((z1.to(precision) + z2.to(precision)) / 2, z_image)
    return imid_weight * imid + cmid_weight * cmid, imid, cmid


def multiview_loss(
    z1: Tensor,
    z2: Tensor,
    pairs: Sequence[tuple[Tensor, Tensor]] | None,
    criterion: Callable[[Tensor, Tensor], Tensor],
    imid_weight: float = 1.0,
    cmid_weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Multi-view, after MM-Point (Yu and Song, AAAI 2024).

    IMID = NTXent(z1, z2), CMID = the sum over v of NTXent(g_v(f), h_v(r_v)).

    Args:
        z1, z2: (B, D) projections of the two views by g_0.
        pairs: for each image v the projections of a cloud and of the image, (B, D_v),
            see :class:`models.crosspoint.MultiView`; None if cmid_weight is 0.
        criterion, imid_weight, cmid_weight: see :func:`crosspoint_loss`.

    Returns:
        total, IMID, CMID: scalars, total = imid_weight IMID + cmid_weight CMID.
    """
    imid = cmid = z1.new_zeros(())
    if imid_weight:
        imid = criterion(z1, z2)
    if cmid_weight:
        assert pairs is not None
        cmid = torch.stack([criterion(g, h) for g, h in pairs]).sum()
    return imid_weight * imid + cmid_weight * cmid, imid, cmid


def smoothed_cross_entropy(
    logits: Tensor, target: Tensor, smoothing: float = 0.2
) -> Tensor:
    """Cross-entropy with 1 - smoothing on the target, the rest on the other classes.

    This is DGCNN's form: each of the other C - 1 classes gets smoothing / (C - 1).
    torch's ``label_smoothing`` e spreads e / C over all C classes, so the two agree
    for e = smoothing * C / (C - 1).

    Args:
        logits: (M, C), C >= 2.
        target: (M,) int64 class numbers.
        smoothing: in [0, (C - 1) / C].

    Returns:
        The mean over the M rows.
    """
    classes = logits.shape[1]
    return F.cross_entropy(
        logits, target, label_smoothing=smoothing * classes / (classes - 1)
    )
