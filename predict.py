"""Use trained weights on clouds and meshes of your own.

Files are clouds (PLY, PCD, XYZ, PTS, TXT, CSV, NPY, NPZ, HDF5) or meshes (PLY, OBJ,
OFF, STL, GLB), or folders of these. What cannot be read is listed at the end, and
the exit status is then 1.

  features  python predict.py features shapes --model_path best_model.pth \\
                --out features.npz
  nearest   python predict.py nearest chair.ply --among features.npz \\
                --model_path best_model.pth --top 5 --sheet near.png
  classify  python predict.py classify scans/*.pcd --out classes.csv \\
                --model_path checkpoints/finetune_modelnet40/models/best_model.pth
  segment   python predict.py segment chair.obj --category chair --out parts \\
                --model_path checkpoints/partseg/models/best_model.pth
"""

import argparse
from collections.abc import Callable, Iterator

from datasets import CATEGORIES, SAMPLINGS
from models import CLASSIFIERS, ENCODERS
from utils.run import cli, flags

PUBLISHED = {"num_points": 1024, "k": 15}  # of features, as eval_svm.py has them
SHOWN = 20  # queries on a contact sheet


def get_args_parser() -> argparse.ArgumentParser:
    """The command line: four commands with common flags."""
    parser = cli.Parser(__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    doc = "Compute features of clouds and meshes."
    add = add_command(commands, "features", doc, "any weights")
    text = "output: names (M,) and features (M, F) float32"
    add("--out", required=True, metavar="FILE.npz", help=text)
    doc = "Find the shapes whose features are most similar."
    add = add_command(commands, "nearest", doc, "the weights of the features")
    text = "features written by predict.py features"
    add("--among", required=True, metavar="FILE.npz", help=text)
    add("--top", type=flags.positive_int, default=5, help="neighbours of each cloud")
    text = f"draw the first {SHOWN} clouds, each beside its neighbours"
    add("--sheet", default="", metavar="FILE.png", help=text)
    doc = "Name the most probable classes."
    add = add_command(commands, "classify", doc, "weights of finetune_cls.py")
    add("--top", type=flags.positive_int, default=3, help="most probable classes shown")
    add("--out", default="", metavar="FILE.csv", help="also write the table")
    doc = "Label every point with its part."
    add = add_command(commands, "segment", doc, "weights of train_partseg.py")
    add("--category", required=True, choices=CATEGORIES, help="category of the shapes")
    add(
        "--out",
        required=True,
        metavar="DIR",
        help="for each shape a NAME.ply, coloured by part, and a NAME.npz: points "
        "(P, 3) and parts (P,) of all points of the file",
    )
    return parser


def add_command(
    commands: argparse._SubParsersAction, name: str, doc: str, weights: str
) -> Callable[..., argparse.Action]:
    """A command with the flags of all; what is returned adds a flag of its own.

    ``weights`` is the help of ``--model_path``.
    """
    parser = commands.add_parser(name, help=doc, doc=doc)
    add = parser.add_argument_group("clouds").add_argument
    add("files", nargs="+", metavar="FILE_OR_FOLDER", help="clouds and meshes")
    add(
        "--sampling",
        choices=SAMPLINGS,
        default=SAMPLINGS[0],
        help="for larger clouds: farthest-point or random sampling, or the first "
        "points, as in the evaluations; meshes are sampled uniformly by area",
    )
    add("--seed", type=flags.natural_int, default=0, help="seed of the sampling")
    add("--up", choices=("y", "z"), default="y", help="vertical axis of the files")
    text = "neither centre the clouds nor scale them to the unit sphere"
    add("--as_is", action="store_true", help=text)
    own = flags.OF_WEIGHTS
    add = flags.add_model_flags(parser, ENCODERS, PUBLISHED, weights, own).add_argument
    add("--batch_size", type=flags.positive_int, default=32, help="clouds per step")
    add = parser.add_argument_group("run").add_argument
    add("--overwrite", action="store_true", help="replace what an earlier run wrote")
    add("--debug", action="store_true", help="show the traceback of every error")
    return parser.add_argument_group(name).add_argument


if __name__ == "__main__":
    # Before PyTorch is imported: --help and a mistyped flag are answered at once.
    ARGS = cli.start(get_args_parser())

import csv
import io
import os
import sys
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from datasets.files import DataError
from datasets.own_files import Cloud, OwnFiles
from models import trained_network
from utils.drawing.clouds import Cell, cloud_grid, write_part_cloud
from utils.errors import UsageError, usage_errors
from utils.judging import predict
from utils.parallel import distributed
from utils.run.checkpoint import load_encoder, load_pretrained
from utils.run.logger import progress
from utils.run.network import Network, settle
from utils.run.run_folder import replace_file

HEADS = {  # what a command needs: encoders, heads, and the script that trains them
    "classify": (CLASSIFIERS, ("classifier", "linear"), "finetune_cls.py"),
    "segment": (("dgcnn_seg",), ("parts",), "train_partseg.py"),
}


def main(args: argparse.Namespace) -> None:
    """Check everything, run the command, then list what could not be read."""
    process = distributed.start()
    if process.world_size > 1:
        raise UsageError("predict.py is one process: start it with python")
    with usage_errors():
        network = settle(args, PUBLISHED)
        check(args, network)
        sampling = (args.num_points, args.sampling, args.seed, args.as_is, args.up)
        files = OwnFiles(args.files, *sampling)
        model = load(args, network).to(process.device)
    print(f"{args.model_path}: {network.origin}")
    if args.command == "features":
        save_features(args, model, files)
    elif args.command == "nearest":
        find_nearest(args, model, files)
    elif args.command == "classify":
        classify(args, model, files, network)
    else:
        segment(args, model, files)
    report(files)


def check(args: argparse.Namespace, network: Network) -> None:
    """Refuse unsuitable weights, contradictory flags, and outputs that exist."""
    encoders, heads, trainer = HEADS.get(args.command, ((), (network.head,), ""))
    if network.head not in heads:
        start = f" --model_path {args.model_path}" if args.model in encoders else ""
        raise UsageError(
            f"{args.model_path} cannot {args.command} (its head: {network.head}): "
            f"`python {trainer}{start}` makes weights that can"
        )
    endings = {"features": ".npz", "nearest": ".png", "classify": ".csv"}
    flag = "--sheet" if args.command == "nearest" else "--out"
    if not (name := getattr(args, flag[2:])):
        return
    path, ending = Path(name), endings.get(args.command)
    if ending and (path.suffix != ending or path.is_dir()):
        raise UsageError(f"{flag} {path} is not the name of a {ending} file")
    if not ending and path.is_file():
        raise UsageError(f"{flag} {path} is a file: name a folder")
    exists = path.is_file() or (path.is_dir() and any(path.iterdir()))
    if exists and not args.overwrite:
        raise UsageError(f"{flag} {path} exists: name another, or add --overwrite")
    try:
        (path.parent if ending else path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{flag} {path} cannot be written: {error}") from error


def load(args: argparse.Namespace, network: Network) -> nn.Module:
    """The network with its weights: an encoder, unless the command needs a head."""
    size = (args.model, args.k, args.emb_dims)
    if args.command not in HEADS:
        encoder = trained_network(*size, edgeconv=args.edgeconv)
        load_encoder(encoder, args.model_path, args.seed)
        return encoder
    model = trained_network(*size, network.head, network.outputs, args.edgeconv)
    missing = load_pretrained(model, args.model_path).initialised
    if missing:
        raise UsageError(f"{args.model_path} is not complete: it lacks {missing[0]}")
    return model


def read(files: OwnFiles, size: int) -> Iterator[tuple[list[Cloud], np.ndarray]]:
    """Batches of clouds, and their points (B, N, 3), behind a progress bar."""
    with progress(total=files.total, desc="clouds", unit="cloud") as bar:
        for clouds in files.batches(size):
            yield clouds, np.stack([cloud.points for cloud in clouds])
            bar.total = files.total - len(files.failed)
            bar.update(len(clouds))


def report(files: OwnFiles) -> None:
    """Say which clouds were repeated and which could not be used: then exit with 1."""
    if files.repeated:
        repeats = [f"{name} ({count})" for name, count in files.repeated.items()]
        print(
            f"fewer than {files.num_points} points, which are repeated: {len(repeats)} "
            f"of the clouds: {', '.join(repeats[:3] + ['...'] * (len(repeats) > 3))}"
        )
    if files.failed:
        lines = [f"could not be used, {len(files.failed)} of {files.total}:"]
        lines += [f"  {name}: {reason}" for name, reason in files.failed.items()]
        print("\n".join(lines), file=sys.stderr)
        sys.exit(1)


def save_features(args: argparse.Namespace, model: nn.Module, files: OwnFiles) -> None:
    """``features``: an NPZ file, which also says what the features are of."""
    names, features = [], []
    for clouds, points in read(files, args.batch_size):
        names += [cloud.name for cloud in clouds]
        features.append(predict.features(model, points, args.batch_size))
    if not names:
        return
    predict.write_features(names, np.concatenate(features), args)
    print(f"{args.out}: names and features {(len(names), features[0].shape[1])}")


def find_nearest(args: argparse.Namespace, model: nn.Module, files: OwnFiles) -> None:
    """``nearest``: names and cosines, and a contact sheet."""
    gallery = predict.read_features(args)
    lines: list[list[Cell]] = []
    for clouds, points in read(files, args.batch_size):
        features = predict.features(model, points, args.batch_size)
        nearest = predict.nearest(features, gallery["features"], args.top)
        for cloud, rows, cosines in zip(clouds, *nearest, strict=True):
            tqdm.write(cloud.name)
            names = gallery["names"][rows]
            for name, cosine in zip(names, cosines, strict=True):
                tqdm.write(f"  {cosine:.4f}  {name}")
            if args.sheet and len(lines) < SHOWN:
                line = [Cell(cloud.points, f"{label(cloud.name)}\nquery")]
                for name, cosine in zip(names, cosines, strict=True):
                    content = neighbour(name, str(gallery["folder"]), files)
                    line.append(Cell(content, f"{label(name)}\ncosine {cosine:.4f}"))
                lines.append(line)
    if lines:
        cloud_grid(lines, f"nearest in {args.among}").savefig(args.sheet)
        print(f"{args.sheet}: {len(lines)} clouds and their neighbours")


def label(name: str) -> str:
    """Folder and name of a file in two short lines."""
    path = Path(name)
    return f"{path.parent.name[:20]}\n{path.name[-20:]}"


def neighbour(name: str, folder: str, files: OwnFiles) -> np.ndarray:
    """The points of a neighbour, or a blank image if its file is no longer there."""
    try:
        return files.read_again(name, folder).points
    except DataError as error:
        tqdm.write(f"  not drawn: {error}")
        return np.full((8, 8, 3), 230, np.uint8)


def classify(
    args: argparse.Namespace, model: nn.Module, files: OwnFiles, network: Network
) -> None:
    """``classify``: the most probable classes of each cloud."""
    classes = network.class_names
    if classes is None:
        classes = tuple(map(str, range(network.outputs or 0)))
        print("no network.json beside the weights: classes are numbered")
    top = min(args.top, len(classes))
    lines = [["name"]]
    for number in range(1, top + 1):
        lines[0] += [f"class_{number}", f"probability_{number}"]
    for clouds, points in read(files, args.batch_size):
        probabilities = predict.classify(model, points, args.batch_size)
        for cloud, row in zip(clouds, probabilities, strict=True):
            summary, line = cloud.name, [cloud.name]
            for c in np.argsort(-row, kind="stable")[:top]:
                summary += f"  {classes[c]} {row[c]:.1%}"
                line += [classes[c], f"{row[c]:.6f}"]
            tqdm.write(summary)
            lines.append(line)
    if args.out and len(lines) > 1:
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows(lines)
        replace_file(args.out, table.getvalue().encode())
        print(f"{args.out}: the table")


def segment(args: argparse.Namespace, model: nn.Module, files: OwnFiles) -> None:
    """``segment``: a PLY and an NPZ file of each cloud, and the shares of its parts."""
    category = CATEGORIES.index(args.category)
    common = os.path.commonpath([path.absolute().parent for path in files.files])
    used: set[Path] = set()
    for clouds, points in read(files, args.batch_size):
        predictions = predict.segment(model, points, category, args.batch_size)
        for cloud, sampled in zip(clouds, predictions, strict=True):
            all_points = cloud.given
            parts = predict.spread(sampled, all_points[cloud.rows], all_points)
            parts = parts.astype(np.uint8)
            path = output_path(args.out, os.path.relpath(cloud.name, common), used)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_part_cloud(Path(f"{path}.ply"), all_points, parts, category)
            np.savez(f"{path}.npz", points=all_points, parts=parts)
            numbers, counts = np.unique(parts, return_counts=True)
            shares = ", ".join(
                f"part {number} {count / len(parts):.1%}"
                for number, count in zip(numbers, counts, strict=True)
            )
            tqdm.write(f"{cloud.name} -> {path}.ply  {shares}")


def output_path(folder: str, name: str, used: set[Path]) -> Path:
    """Path without ending for the files of a cloud, and another one than those used."""
    base, ending = os.path.splitext(name)
    row = ending.partition("#")[2]
    path = Path(folder, f"{base}_{row}" if row else base)
    if path in used:
        path = path.with_name(path.name + ending.replace(".", "_"))
    used.add(path)
    return path


if __name__ == "__main__":
    cli.run(lambda: main(ARGS), ARGS.debug)
