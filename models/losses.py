"""NT-Xent over the global batch, the CrossPoint loss, smoothed cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

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
        or float64 whatever autocast says.

    Raises:
        ValueError: if the temperature is not positive or the shapes differ.
    """

    def __init__(self, temperature: float = 0.1, gather: bool = True) -> None:
        super().__init__()
        if temperature <= 0:
            raise ValueError(f"--temperature must be positive, got {temperature}")
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
            everyone, first = pairs, 0  # first: where this rank's rows begin
            if self.gather:
                everyone = distributed.gather_rows(pairs)  # (B, 2, D)
                first = distributed.rank() * len(pairs)
            anchors = pairs.transpose(0, 1).flatten(0, 1)  # (2b, D): z0, then z1
            rows = everyone.transpose(0, 1).flatten(0, 1)  # (2B, D)
            own = first + torch.arange(len(pairs), device=rows.device)
            itself = torch.cat([own, own + len(everyone)])
            partner = torch.cat([own + len(everyone), own])
            logits = anchors @ rows.T / self.temperature  # (2b, 2B)
            logits = logits.scatter(1, itself[:, None], float("-inf"))
            return F.cross_entropy(logits, partner)


def crosspoint_loss(
    z1: Tensor,
    z2: Tensor,
    z_image: Tensor,
    criterion: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """The CrossPoint objective (equations 3 to 5), intra-modal plus cross-modal.

    Args:
        z1, z2: (B, D) projections of the two views.
        z_image: (B, D) projections of the images.
        criterion: :class:`NTXentLoss`.

    Returns:
        total, IMID, CMID: scalars, total = IMID + CMID. The mean of the two views is
        taken before normalisation, in float32 or float64 also under autocast.
    """
    imid = criterion(z1, z2)
    precision = torch.promote_types(z1.dtype, torch.float32)
    cmid = criterion((z1.to(precision) + z2.to(precision)) / 2, z_image)
    return imid + cmid, imid, cmid


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
