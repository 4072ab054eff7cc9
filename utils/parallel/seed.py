"""Random numbers as a pure function of their purpose.

A generator is determined by integers such as ``(seed, epoch, sample index)``, not by
the worker, the rank, or earlier draws. So any world size sees the same global batches,
and a resumed run continues with the same numbers.
"""

import numpy as np

# One number per purpose: two purposes never share a stream.
ORDER, POINTS, IMAGE, SHAPE, SPLIT, EPISODE, SAMPLE, LABELS, CORRUPTION = range(9)


def generator(purpose: int, *key: int) -> np.random.Generator:
    """A NumPy generator that is a function of ``(purpose, *key)`` alone.

    ``key`` are integers in [0, 2**64), e.g. ``seed, epoch, index``; a ValueError if one
    is negative.
    """
    if min(key, default=0) < 0:
        raise ValueError(f"seeds and indices are >= 0, got {key}")
    # Two 32-bit words per number, and the count in front: SeedSequence alone gives the
    # same stream for (1,) and (1, 0), or for 2**32 and (0, 1). As an array, which is
    # faster to convert.
    words = np.array((purpose | len(key) << 32, *key), "<u8").view("<u4")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(words)))
