"""Kill random ranks at random steps: the long form of tests/test_interruptions.py.

python -m tests.soak [--kills 20] [--seed 0]
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from datasets.synthetic import generate
from tests.helpers.ddp import Pool
from tests.test_interruptions import survive


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="(default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    args = parser.parse_args()
    chance = random.Random(args.seed)
    epochs = 2 * args.kills
    # At least one checkpoint, which is written every second step, between two kills.
    places = sorted(chance.sample(range(1, epochs - 1), args.kills))
    kills = [(chance.randrange(2), 3 * place + chance.randrange(3)) for place in places]
    start = time.monotonic()
    pool = Pool(2)
    with tempfile.TemporaryDirectory(prefix="soak_") as folder:
        data = Path(folder, "data")
        generate(data, shapes=24, seed=0, workers=1)
        survive(pool, Path(folder), data, epochs, kills)
    pool.close()
    print(
        f"{args.kills} kills in {3 * epochs} steps on 2 processes: every record once, "
        "records and final weights bit for bit those of the undisturbed run, "
        f"{time.monotonic() - start:.0f} s"
    )


if __name__ == "__main__":
    main()
