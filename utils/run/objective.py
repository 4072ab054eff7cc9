"""The flags of the pre-training objective, and their checks."""

import argparse

from utils.run.flags import natural_float, positive_int

OBJECTIVES = {"crosspoint": "CrossPoint", "multiview": "multi-view, after MM-Point"}
IMAGE_JITTER, VIEW_DIM = 0.4, 256  # of every image, unless given


def add_objective_flags(parser: argparse.ArgumentParser) -> None:
    """Flags of the losses and of the images that they compare with clouds."""
    group = parser.add_argument_group(
        "objective", "Equations and sources: docs/objectives.md."
    )
    add = group.add_argument
    text = (
        "crosspoint: the mean of both clouds against the mean of the images; "
        "multiview: after MM-Point, a cloud against each image, every pair with its "
        "own projection heads"
    )
    add("--objective", choices=tuple(OBJECTIVES), default="crosspoint", help=text)
    for name, loss, off in (
        ("--imid_weight", "intra-modal", "it off"),
        ("--cmid_weight", "cross-modal", "it and the image encoder off"),
    ):
        text = f"weight of the {loss} loss; 0 switches {off}"
        add(name, type=natural_float, default=1.0, help=text)
    text = "different images of each shape in a step"
    add("--num_images", type=positive_int, default=1, metavar="V", help=text)
    add(
        "--image_jitter",
        type=natural_float,
        nargs="+",
        default=[IMAGE_JITTER],
        metavar="S",
        help="strength of the colour jitter, from 0 to 1: one, or one for each of the "
        f"V images (default: {IMAGE_JITTER})",
    )
    add(
        "--view_dims",
        type=positive_int,
        nargs="+",
        metavar="D",
        help="width of the projections of --objective multiview: one, or one for each "
        f"of the V images (default: {VIEW_DIM})",
    )


def settle_objective(args: argparse.Namespace) -> None:
    """Give every image its own jitter and width; a ValueError for contradictions."""
    if args.imid_weight == 0 == args.cmid_weight:
        raise ValueError(
            "--imid_weight 0 and --cmid_weight 0 leave no loss: give one of them a "
            "weight above 0"
        )
    if max(args.image_jitter) > 1:
        raise ValueError(f"--image_jitter {max(args.image_jitter):g} is more than 1")
    if args.view_dims and args.objective != "multiview":
        raise ValueError("--view_dims needs --objective multiview: add it")
    names = ["image_jitter"]
    if args.objective == "multiview":
        args.view_dims = args.view_dims or [VIEW_DIM]
        names.append("view_dims")
    for name in names:
        values = getattr(args, name)
        if len(values) not in (1, args.num_images):
            raise ValueError(
                f"--{name} has {len(values)} values: give one, or as many as "
                f"--num_images {args.num_images}"
            )
        if len(values) == 1:
            setattr(args, name, values * args.num_images)


def describe(args: argparse.Namespace) -> str:
    """The objective in words, for the log."""
    images = f"{args.num_images} image{'s' * (args.num_images > 1)} a shape"
    weights = f"weights {args.imid_weight:g} (IMID) and {args.cmid_weight:g} (CMID)"
    return f"{OBJECTIVES[args.objective]}, {images}, {weights}"
