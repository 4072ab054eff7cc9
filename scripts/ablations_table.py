"""The table that scripts/ablations.sh prints at its end, from the files of its runs.

python -m scripts.ablations_table NAME      of the runs checkpoints/NAME_*
"""

from scripts.pipeline_table import SETS, accuracies, origin, percent
from utils.run import cli
from utils.run.run_folder import CHECKPOINTS

# Run -> what it is, and the published linear SVM in % on both data sets, if known.
ROWS = {
    "dgcnn": ("DGCNN, both losses, 1 image", "91.2", "81.7"),
    "dgcnn_intra": ("DGCNN, intra-modal alone", "-", "-"),
    "dgcnn_cross": ("DGCNN, cross-modal alone", "-", "-"),
    "dgcnn_2": ("DGCNN, both losses, 2 images", "-", "-"),
    "dgcnn_3": ("DGCNN, both losses, 3 images", "-", "-"),
    "dgcnn_4": ("DGCNN, both losses, 4 images", "-", "-"),
    "dgcnn_5": ("DGCNN, both losses, 5 images", "-", "-"),
    "pointnet": ("PointNet, both losses, 1 image", "89.1", "75.6"),
    "pointnet_intra": ("PointNet, intra-modal alone", "-", "-"),
    "pointnet_cross": ("PointNet, cross-modal alone", "-", "-"),
}


def table(name: str) -> str:
    """The complete text."""
    form = "{:<32}" + "  {:>12}  {:>7}  {:>4}" * len(SETS)
    lines = [["linear SVM, in %"], ["(C by held-out data)"]]
    for title in SETS.values():
        lines[0] += [title, "", ""]
        lines[1] += ["published", "ours", "C"]
    for run, (label, *published) in ROWS.items():
        measured = accuracies([CHECKPOINTS / f"{name}_{run}_svm"])
        cells = [label]
        for dataset, number in zip(SETS, published, strict=True):
            ours = ("not run", "")
            if dataset in measured:
                r = measured[dataset][-1]
                ours = (percent(r["accuracy"]), f"{r['C']:g}")
            cells += [number, *ours]
        lines.append(cells)
    head = [f"Ablations, checkpoints/{name}_*", *origin(f"{name}_dgcnn"), ""]
    return "\n".join(head + [form.format(*line).rstrip() for line in lines])


def main() -> None:
    parser = cli.Parser(__doc__)
    parser.add_argument("name", help="of the runs: scripts/ablations.sh --name")
    print(table(parser.parse_args().name))


if __name__ == "__main__":
    cli.run(main)
