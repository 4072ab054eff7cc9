"""Write the encoder of a weight file for other programs: ONNX or torch.export.

  python -m models.export --model_path best_model.pth --out encoder.onnx
  python -m models.export --model_path best_model.pth --out encoder.pt2 --format torch

The file maps points (B, 3, N) float32 to features (B, 2E), of dgcnn_seg and pointnet
(B, E), for any B and any N from K to 65,536, and needs nothing of this project. It is
compared with PyTorch on random clouds before the command ends.

  ONNX     onnxruntime.InferenceSession("encoder.onnx").run(None, {"points": points})
  torch    torch.export.load("encoder.pt2").module()(points)
"""

import argparse
import importlib.util
import os
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from models import ENCODERS
from utils.run import cli, flags

# On random clouds, relative to the largest feature. Rounding alone gives 1e-5; if it
# swaps two neighbours, single features differ by more.
TOLERANCE = 0.05
MOST_POINTS = 2**16


def get_args_parser() -> argparse.ArgumentParser:
    """The command line of the export."""
    parser = cli.Parser(__doc__)
    add = parser.add_argument
    add("--model_path", required=True, metavar="FILE", help="weights to export")
    add("--out", required=True, metavar="FILE", help="file to write")
    add("--format", choices=("onnx", "torch"), default="onnx", help="file format")
    default = "(default: the weights' own)"
    add("--model", choices=ENCODERS, help=f"encoder {default}")
    add("--emb_dims", type=flags.positive_int, help=f"width of the embedding {default}")
    add("--k", type=flags.positive_int, help=f"neighbours per point {default}")
    add("--overwrite", action="store_true", help="replace --out if it exists")
    add("--debug", action="store_true", help="show the traceback of every error")
    return parser


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import torch
from torch import Tensor, nn

from models import point_encoder
from utils.errors import UsageError
from utils.run.checkpoint import load_encoder
from utils.run.network import read_network


class Features(nn.Module):
    """The part of a point encoder that is exported: (B, 3, N) -> (B, F)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, points: Tensor) -> Tensor:
        return self.encoder.features(points)  # type: ignore[operator]


def main(args: argparse.Namespace) -> None:
    out = Path(args.out)
    check_output(out, args)
    overrides = {"model": args.model, "emb_dims": args.emb_dims, "k": args.k}
    network = read_network(args.model_path, **overrides)
    encoder = point_encoder(network.model, network.k, network.emb_dims, "plain")
    print(load_encoder(encoder, args.model_path, seed=0))
    print(network.origin)
    del encoder.inv_head  # no part of the features
    encoder = Features(encoder).eval()
    partial = out.with_name(f".{out.stem}.{os.getpid()}.partial{out.suffix}")
    try:
        write(encoder, network.k, partial, args.format)
        sizes = [(1, network.k), (3, 2 * network.k + 1), (2, max(512, network.k))]
        for line in compare(encoder, partial, args.format, sizes):
            print(line)
        os.replace(partial, out)
    finally:
        partial.unlink(missing_ok=True)
    print(f"{out}: the encoder, {out.stat().st_size / 2**20:.1f} MiB, {args.format}")


def check_output(out: Path, args: argparse.Namespace) -> None:
    """Refuse an output that cannot be written, or not in this format."""
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        problem = "is a folder, or its folder is missing or read-only; choose another"
        raise UsageError(f"--out {out} {problem}")
    if out.exists() and not args.overwrite:
        raise UsageError(f"--out {out} exists: add --overwrite, or choose another name")
    if args.format == "torch" and out.suffix != ".pt2":
        raise UsageError(f"--out {out}: --format torch writes files named .pt2")
    missing = [n for n in ("onnx", "onnxscript") if not importlib.util.find_spec(n)]
    if args.format == "onnx" and missing:
        raise UsageError(
            f"--format onnx needs {' and '.join(missing)}: pip install onnx onnxscript "
            "onnxruntime, or use --format torch"
        )


def write(encoder: nn.Module, k: int, path: Path, form: str) -> None:
    """Export an encoder in its plain form, with dynamic B and N.

    Args:
        encoder: (B, 3, N) -> (B, F), in eval mode.
        k: the smallest N.
        path: of the file.
        form: ``onnx`` or ``torch``.
    """
    example = torch.randn(3, 3, 2 * k + 3)  # no two sizes are equal
    # PyTorch 2.6 wants to know that indices fit into 32 bits. The distances between
    # that many points of one cloud are 16 GiB.
    points = torch.export.Dim("points", min=k, max=MOST_POINTS)
    free = {0: torch.export.Dim("clouds"), 2: points}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecation warnings
        program = torch.export.export(
            encoder, (example,), dynamic_shapes={"points": free}
        )
        if form == "torch":
            torch.export.save(program, path)
        else:
            _write_onnx(program, example, free, path)


def _write_onnx(
    program: torch.export.ExportedProgram, example: Tensor, free: dict, path: Path
) -> None:
    try:
        torch.onnx.export(
            program,
            (example,),
            path,
            input_names=["points"],
            output_names=["features"],
            dynamic_shapes={"points": free},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        packages = ("torch", "onnx", "onnxscript", "protobuf")
        versions = ", ".join(f"{name} {version(name)}" for name in packages)
        raise UsageError(
            f"PyTorch's ONNX exporter failed ({versions}): use releases of about the "
            "same date, or --format torch; --debug shows where"
        ) from error


def compare(
    encoder: nn.Module, path: Path, form: str, sizes: list[tuple[int, int]]
) -> list[str]:
    """Compare the file's features with PyTorch's on random clouds; lines to print.

    Args:
        encoder: the exported one.
        path, form: see :func:`write`.
        sizes: (B, N) of the clouds.

    Raises:
        UsageError: if they differ by more than rounding and swapped neighbours explain.
    """
    features: Callable[[Tensor], Tensor]
    if form == "torch":
        features = torch.export.load(path).module()
    elif not importlib.util.find_spec("onnxruntime"):
        return ["not compared with PyTorch: pip install onnxruntime does that"]
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"]
        )

        def features(points: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {"points": points.numpy()})[0])

    random, lines = torch.Generator().manual_seed(0), []
    for batch, points in sizes:
        clouds = torch.randn(batch, 3, points, generator=random)
        clouds /= clouds.norm(dim=1, keepdim=True).amax(dim=2, keepdim=True)
        with torch.no_grad():
            ours, theirs = encoder(clouds), features(clouds)
        largest = (ours - theirs).abs().max().item()
        scale = ours.abs().max().item()
        lines.append(
            f"{batch} x {points} random points: largest difference from PyTorch "
            f"{largest:.1e}, of features up to {scale:.2g}"
        )
        if not largest <= TOLERANCE * scale:
            raise UsageError(f"the exported file is wrong: {lines[-1]}")
    return lines


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), ARGS.debug)
