"""Global batches of samples that do not depend on the number of processes."""

from collections.abc import Iterator

from torch.utils.data import Sampler

from utils.parallel.seed import ORDER, generator

Key = tuple[int, int]


def shard_range(total: int, rank: int, world_size: int) -> range:
    """This rank's contiguous share of `total` rows; shares differ by at most one row.

    Raises:
        ValueError: if `rank` is not in 0 .. world_size - 1.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} is not one of {world_size} processes")
    return range(total * rank // world_size, total * (rank + 1) // world_size)


def split_key(key: int | Key) -> Key:
    """(epoch, index) of a key, which is such a pair or an index of epoch 0."""
    if isinstance(key, tuple):
        epoch, index = key
        return int(epoch), int(index)
    return 0, int(key)


def check_batch_size(batch_size: int, world_size: int) -> None:
    """Refuse a global batch that `world_size` does not divide.

    Raises:
        ValueError: naming the nearest sizes that fit.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is below 1 (--batch_size)")
    if batch_size % world_size:
        lower = batch_size // world_size * world_size
        fits = [str(n) for n in (lower, lower + world_size) if n >= world_size]
        raise ValueError(
            f"batch_size {batch_size} is not divisible by {world_size} processes; "
            f"use --batch_size {' or '.join(fits)}"
        )


class GlobalBatchSampler(Sampler[list[Key]]):
    """One rank's share of global batches that are the same for any world size.

    An epoch's order is a permutation, a function of (seed, epoch) alone. Step s takes
    its entries [s B, (s + 1) B), rank r the r-th of W contiguous parts of these.

    Yields lists of B / W keys (epoch, index): persistent workers learn the epoch from
    the key.

    Args:
        size: samples in the set.
        batch_size: global batch B, over all processes.
        rank, world_size: this process r and the number of processes W.
        seed: for the order.
        last: what to do with an incomplete last batch: "drop" it, or "fill" it from
            the head of the same permutation, repeated if the set is smaller than a
            batch.

    Raises:
        ValueError: if W does not divide B, if the set is empty, or if it is smaller
            than one batch and `last` is "drop".
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        last: str = "drop",
    ) -> None:
        check_batch_size(batch_size, world_size)
        if last not in ("drop", "fill"):
            raise ValueError(f"last is 'drop' or 'fill', got {last!r}")
        if size < 1:
            raise ValueError("the data set is empty")
        if last == "drop" and size < batch_size:
            raise ValueError(
                f"the data set has {size} samples, fewer than batch_size {batch_size}: "
                f"use --batch_size {size} or less"
            )
        self.size, self.batch_size, self.seed, self.last = size, batch_size, seed, last
        # Also refuses a rank outside of the world.
        self._share = shard_range(batch_size, rank, world_size)
        self.epoch = self.start_step = 0

    def __len__(self) -> int:
        """Steps in a whole epoch, whatever `start_step` is."""
        if self.last == "drop":
            return self.size // self.batch_size
        return -(-self.size // self.batch_size)

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch to iterate over and how many of its steps to skip.

        Raises:
            ValueError: if `start_step` is beyond the epoch's end.
        """
        if not 0 <= start_step <= len(self):
            raise ValueError(
                f"step {start_step} is not in an epoch of {len(self)} steps"
            )
        self.epoch, self.start_step = epoch, start_step

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        order = generator(ORDER, self.seed, epoch).permutation(self.size)
        for step in range(self.start_step, len(self)):
            first = step * self.batch_size
            yield [(epoch, int(order[(first + i) % self.size])) for i in self._share]
