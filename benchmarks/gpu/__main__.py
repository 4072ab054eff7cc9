"""The command ``python -m benchmarks.gpu``."""

import sys

from benchmarks.gpu.check import main

if __name__ == "__main__":  # not again in the processes that rows run in
    sys.exit(main())
