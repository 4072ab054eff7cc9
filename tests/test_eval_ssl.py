"""The notebook: as committed, and run from top to bottom."""

import argparse
import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
import trimesh
from nbclient import NotebookClient

from datasets import labelled_clouds
from models import point_encoder
from models.dgcnn import DGCNN
from models.partseg import DGCNNPartSeg
from tests.test_imports import PACKAGES, ROOT, modules_in, within
from utils.drawing.features import neighbour_figure
from utils.judging import svm
from utils.judging.features import extract_features
from utils.run.checkpoint import save_weights
from utils.run.network import write_network

SMALL = {"num_points": 48, "k": 5, "emb_dims": 16, "seed": 3, "num_queries": 2}
CANDIDATES = [0.1, 1000.0]
SETS = ("modelnet40", "scanobjectnn")


def read() -> Any:
    return nbformat.read(ROOT / "eval_ssl.ipynb", as_version=4)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters_of(notebook: Any) -> Any:
    tagged = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1
    return tagged[0]


def executed(folder: Path, monkeypatch, **values: object) -> dict[str, Any]:
    """The code cells by their ids, after a run with these parameters."""
    notebook = read()
    cell = parameters_of(notebook)
    known = {node.targets[0].id for node in ast.parse(cell.source).body}
    assert set(values) <= known, "a parameter that the notebook does not have"
    cell.source += "".join(f"\n{k} = {v!r}" for k, v in values.items())
    # Nothing of the user's own set-up of Jupyter plays a part, or is written to.
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folder / name.lower()))
    place = {"metadata": {"path": str(ROOT)}}
    NotebookClient(notebook, timeout=300, resources=place).execute()
    return {cell.id: cell for cell in code_cells(notebook)}


def printed(cell: Any) -> str:
    return "".join(o.text for o in cell.outputs if o.get("name") == "stdout")


def images(cell: Any) -> int:
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def test_the_notebook_is_committed_clean() -> None:
    notebook = read()
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert cell.outputs == []
        assert cell.execution_count is None
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert parameters_of(notebook).id == "parameters"
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_the_notebook_imports_the_packages_and_no_script() -> None:
    source = "\n".join(cell.source for cell in code_cells(read()))
    source = source.replace("%matplotlib inline\n", "")
    modules = modules_in(source)
    assert "utils.judging.features.extract_features" in modules
    assert not [name for name in modules if not within(name, PACKAGES)]
    tree = ast.parse(source)
    assert not [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]


@pytest.mark.slow
def test_the_notebook_gives_the_numbers_of_the_functions(
    tmp_path: Path, synthetic_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trimesh.creation.box((1, 2, 3)).export(tmp_path / "box.stl")
    (tmp_path / "damaged.xyz").write_text("1 2\n")
    save_weights(DGCNN(20, 16, 4), tmp_path / "classifier.pth")
    save_weights(DGCNNPartSeg(40, 16, 50), tmp_path / "segmenter.pth")
    encoders = {}
    for name, seed in (("untrained", SMALL["seed"]), ("pre-trained", 9)):
        torch.manual_seed(seed)
        encoders[name] = point_encoder("dgcnn", SMALL["k"], SMALL["emb_dims"])
    weights = tmp_path / "encoder/w.pth"
    weights.parent.mkdir()
    save_weights(encoders["pre-trained"], weights)
    # The notebook takes k, the width and the number of points from network.json.
    settings = argparse.Namespace(model="dgcnn", **SMALL)
    write_network(tmp_path / "encoder", settings, "projection")
    cells = executed(
        tmp_path,
        monkeypatch,
        data_root=str(synthetic_root),
        model_path=str(weights),
        candidates=CANDIDATES,
        tsne_clouds=12,
        batch_size=7,
        own_files=[str(tmp_path / "box.stl"), str(tmp_path / "damaged.xyz")],
        classifier_path=str(tmp_path / "classifier.pth"),
        segmenter_path=str(tmp_path / "segmenter.pth"),
        seed=SMALL["seed"],
        num_queries=SMALL["num_queries"],
    )
    entries = len(encoders["pre-trained"].state_dict())
    loaded = f"w.pth: {entries} entries loaded\n"
    assert printed(cells["weights"]).endswith(loaded)  # and nothing left out

    shares, judged = [], []
    for name in SETS:
        train, test = (
            labelled_clouds(name, synthetic_root, split, SMALL["num_points"])
            for split in ("train", "test")
        )
        features, matrices = {}, []
        for called, encoder in encoders.items():
            both = [extract_features(encoder, part.points, 7) for part in (train, test)]
            features[called] = both
            result = svm.judge_features(
                *((both[0], train.labels), (both[1], test.labels)),
                *(train.num_classes, CANDIDATES, SMALL["seed"]),
            )
            rates = f"{result.accuracy:.2%} {result.class_accuracy:.2%} {result.C:g}"
            judged.append(f"{name} {called} {rates} {len(train)} + {len(test)}")
            matrices.append(result.matrix)
        assert (matrices[0] != matrices[1]).any()  # the encoders can be told apart
        _, actual = neighbour_figure(train, test, features, 1, 5, seed=0)
        for called, share in actual.items():
            shares.append(f"{name}, {called}: {share:.2%} of 5 neighbours")
    _, *lines = printed(cells["svm"]).splitlines()
    assert [" ".join(line.split()) for line in lines] == judged
    lines = printed(cells["neighbours"]).splitlines()
    for line, share in zip(lines, shares, strict=True):
        assert line.startswith(share)
    damaged = f"{tmp_path / 'damaged.xyz'}: not a readable XYZ file"
    assert printed(cells["own"]).startswith(damaged)
    assert f"{tmp_path / 'box.stl'}  " in printed(cells["trained"])
    drawn = {name: images(cell) for name, cell in cells.items() if images(cell)}
    two = dict.fromkeys(("confusion", "tsne", "neighbours"), 2)
    assert drawn == {**two, "own": 1, "trained": 1}
    for name in set(cells) - {"svm"}:  # sklearn warns of classes of one or two clouds
        assert not [o.text for o in cells[name].outputs if o.get("name") == "stderr"]
