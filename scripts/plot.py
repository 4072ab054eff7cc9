"""Curves of training runs, as one PNG.

  python -m scripts.plot checkpoints/NAME [checkpoints/OTHER ...] [--out FILE.png]

Losses are drawn against steps, for pre-training with both terms. Accuracies and mIoU
are drawn against epochs. A run may be finished, resumed or still running.
"""

import argparse
from pathlib import Path

from utils.drawing.curves import curves_figure, read_runs
from utils.drawing.page import png_bytes
from utils.run import cli
from utils.run.run_folder import replace_file


def get_args_parser() -> argparse.ArgumentParser:
    parser = cli.Parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN_DIR", help="folders of runs")
    text = "the file to write (default: curves.png in the first RUN_DIR)"
    parser.add_argument("--out", type=Path, metavar="FILE.png", help=text)
    return parser


def main(words: list[str] | None = None) -> None:
    parser = get_args_parser()
    args = parser.parse_args(words)
    out = args.out or Path(args.runs[0], "curves.png")
    if out.suffix.lower() != ".png":
        parser.error(f"--out {out}: only PNG is written, name it FILE.png")
    replace_file(out, png_bytes(curves_figure(read_runs(args.runs))))
    print(out)


if __name__ == "__main__":
    cli.run(main)
