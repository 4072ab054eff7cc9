"""Pre-training triplets: listing, choice of image, independence of the loader."""

import re
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader
from torchvision.transforms import functional as F

from datasets import shapenet_files
from datasets.files import DataError
from datasets.prepare.pack import pack
from datasets.sampler import GlobalBatchSampler
from datasets.shapenet_render import ShapeNetRender
from datasets.transforms import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RawImage,
    augment_image,
    augment_points,
    jitter_images,
)
from tests.datasets import helpers
from tests.datasets.helpers import ply
from utils.parallel.seed import IMAGE, POINTS, generator

POINTS_STORED = 32
# Unsorted on purpose; unlike numbers and sizes of views.
SHAPES = {"04/b": 3, "04/a": 1, "02/z": 2, "02/y": 4, "03/c": 5, "02/x": 3}


def write_views(folder, count, seed):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for view in range(count):
        pixels = rng.integers(0, 256, (9 + view, 11, 4), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{view:02d}.png")


@pytest.fixture
def root(tmp_path):
    for seed, (shape, views) in enumerate(SHAPES.items()):
        points = np.random.default_rng(seed).normal(size=(POINTS_STORED, 3))
        path = tmp_path / "ShapeNet" / f"{shape}.ply"
        path.parent.mkdir(parents=True, exist_ok=True)
        head = ply(POINTS_STORED, kind="binary_little_endian").encode()
        path.write_bytes(head + points.astype("<f4").tobytes())
        write_views(tmp_path / "ShapeNetRendering" / shape / "rendering", views, seed)
    # What is not part of the data set is passed over.
    (tmp_path / "ShapeNet" / "readme.txt").write_text("hello")
    (tmp_path / "ShapeNet" / "02" / "._x.ply").write_text("left by an archiver")
    for name in ("rendering_metadata.txt", "._00.png"):
        (tmp_path / "ShapeNetRendering/02/x/rendering" / name).write_text("no picture")
    (tmp_path / "ShapeNetRendering/99/more/rendering").mkdir(parents=True)
    return tmp_path


def equal(one, two):
    """Of each view and image of two items or batches, whether they are equal."""
    pairs = zip(tree_leaves(list(one)), tree_leaves(list(two)), strict=True)
    return [torch.equal(a, b) for a, b in pairs]


def picture_paths(data, index):
    views = range(data.source.image_counts[index])
    return [Path(data.source.image_path(index, view)) for view in views]


make = partial(ShapeNetRender, num_points=POINTS_STORED, image_size=16)


def test_shapes_and_views_are_listed_sorted(root):
    data = make(root)
    assert data.shapes == ["02/x", "02/y", "02/z", "03/c", "04/a", "04/b"]
    assert len(data) == 6
    for index, shape in enumerate(data.shapes):
        names = [path.name for path in picture_paths(data, index)]
        assert names == [f"{view:02d}.png" for view in range(SHAPES[shape])]
        assert data.source.cloud_path(index) == root / "ShapeNet" / f"{shape}.ply"


def test_an_item_is_a_function_of_seed_epoch_and_index(root):
    data = make(root, seed=3)
    for epoch, index in [(0, 0), (2, 3), (5, 5)]:
        content = data.source.cloud_path(index).read_bytes()[-12 * POINTS_STORED :]
        points = np.frombuffer(content, "<f4").reshape(-1, 3)
        view1, view2, picture = data[(epoch, index)]
        for view, got in enumerate((view1, view2)):
            expected = augment_points(points, generator(POINTS, 3, epoch, index, view))
            np.testing.assert_array_equal(got.numpy(), expected.T)
        rng = generator(IMAGE, 3, epoch, index)
        paths = picture_paths(data, index)
        pixels = np.asarray(Image.open(paths[rng.integers(len(paths))]))[..., :3]
        expected = augment_image(Image.fromarray(pixels), rng, 16)
        assert all(equal((picture,), (expected,)))
        assert view1.dtype == view2.dtype == torch.float32
        assert not torch.equal(view1, view2)
    assert all(equal(data[4], data[(0, 4)]))
    index = data.shapes.index("02/y")  # of several views
    for changed in (data[(1, index)], make(root, seed=4)[index], data[3]):
        *views, _, jitter = equal(data[index], changed)
        assert not any((*views, jitter))


def finished(image, rng, size):
    """A transform of one's own that leaves nothing to the training loop."""
    raw = augment_image(image, rng, size)
    return jitter_images(RawImage(raw.pixels[None], raw.jitter[None]))[0]


@pytest.mark.parametrize("transform", [augment_image, finished])
def test_an_example_is_the_item_with_its_pixels(root, transform):
    data = make(root, seed=3, image_transform=transform)
    for key in [(0, 0), (2, 3)]:
        view1, view2, image = make(root, seed=3, image_transform=finished)[key]
        *clouds, pixels = data.example(key)
        for cloud, view in zip(clouds, (view1, view2), strict=True):
            assert cloud.shape == (POINTS_STORED, 3)
            np.testing.assert_array_equal(cloud.T, view.numpy())
        assert pixels.dtype == np.uint8
        again = F.normalize(F.to_tensor(pixels), IMAGENET_MEAN, IMAGENET_STD)
        assert torch.equal(again, image)


def batches(data, workers, epochs=(0, 1)):
    sampler = GlobalBatchSampler(len(data), 2, seed=1)
    flags = {"num_workers": workers, "persistent_workers": workers > 0}
    loader = DataLoader(data, batch_sampler=sampler, **flags)
    result = []
    for epoch in epochs:
        sampler.set_epoch(epoch)
        result += list(loader)
    return result


def test_batches_do_not_depend_on_the_number_of_workers(root):
    alone, shared = batches(make(root), 0), batches(make(root), 2)
    assert len(alone) == len(shared) == 6
    for a, b in zip(alone, shared, strict=True):
        assert all(equal(a, b))
    view1, _, images = alone[0]
    assert view1.shape == (2, 3, POINTS_STORED)
    assert isinstance(images, RawImage) and images.pixels.shape == (2, 3, 16, 16)
    assert not torch.equal(view1, alone[3][0])  # persistent workers, new epoch
    own = batches(make(root, image_transform=finished), 2)
    for (*_, images), (*_, jittered) in zip(shared, own, strict=True):
        assert torch.equal(jitter_images(images), jittered)
        # Convolutions may differ with the memory layout.
        assert jitter_images(images).stride() == jittered.stride()


def jitters(*strengths):
    return [partial(augment_image, strength=strength) for strength in strengths]


@pytest.fixture
def several(root):
    """Shapes of 3, 4 and 5 images alone."""
    for shape, images in SHAPES.items():
        if images < 3:
            (root / "ShapeNet" / f"{shape}.ply").unlink()
    return root


@pytest.mark.parametrize("packed", [False, True])
def test_v_images_are_different_ones_each_with_a_jitter_of_its_own(several, packed):
    if packed:
        pack(several)
    data = make(several, seed=3, image_transform=jitters(0.4, 0.0, 0.9), packed=packed)
    two = make(several, seed=3, image_transform=jitters(0.4, 0.0))
    one, files = make(several, seed=3), make(several, packed=False)
    for key in [(epoch, index) for epoch in range(9) for index in range(4)]:
        *views, images = data[key]
        assert images.pixels.shape == (3, 3, 16, 16) and images.jitter.shape == (3, 7)
        paths = picture_paths(files, key[1])
        resized = [F.resize(Image.open(x).convert("RGB"), [16, 16]) for x in paths]
        every = torch.stack([*map(F.pil_to_tensor, resized)])
        found = (images.pixels[:, None] == every).flatten(2).all(dim=2)  # (3, V)
        assert found.sum(1).tolist() == [1] * 3 and found.any(0).sum() == 3
        assert torch.equal(images.jitter[1, 3:6], torch.ones(3))
        # The first images are those of a smaller V, and for V = 1 the item as ever.
        assert all(equal((*views, RawImage(*(x[0] for x in images))), one[key]))
        assert all(equal((RawImage(*(x[:2] for x in images)),), two[key][2:]))
        assert all(equal(data[key], data[key]))
    spread = torch.stack([data[(epoch, 0)][2].jitter[:, 3:6] for epoch in range(50)])
    low, high = spread.amin(dim=(0, 2)), spread.amax(dim=(0, 2))
    for strength, least, most in zip((0.4, 0.0, 0.9), low, high, strict=True):
        assert 0.8 * strength <= 1 - least <= strength + 1e-6
        assert 0.8 * strength <= most - 1 <= strength + 1e-6


def test_batches_of_v_images(several):
    data = make(several, image_transform=jitters(0.4, 0.2))
    alone, shared = batches(data, 0), batches(data, 2)
    for a, b in zip(alone, shared, strict=True):
        assert all(equal(a, b))
    *_, images = alone[0]
    assert images.pixels.shape == (2, 2, 3, 16, 16) and images.jitter.shape == (2, 2, 7)
    own = batches(make(several, image_transform=[finished] * 2), 0)[0][2]
    plain = batches(make(several, image_transform=[augment_image] * 2), 0)[0][2]
    assert torch.equal(jitter_images(plain), own)
    _, _, side_by_side = data.example((0, 1))
    assert side_by_side.shape == (16, 32, 3)
    _, _, first = make(several).example((0, 1))
    np.testing.assert_array_equal(side_by_side[:, :16], first)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_fewer_than_v_images_is_named_at_the_start(root, packed):
    if packed:
        pack(root)
    place = re.escape(str(root / "ShapeNetRendering/02/z/rendering"))
    problem = "2 images, fewer than --num_images 3, as for 2 of 6 .*--num_images 1"
    with pytest.raises(DataError, match=f"{place}: {problem}"):
        make(root, image_transform=jitters(0.4, 0.4, 0.4))


def test_an_item_parses_one_cloud_and_one_picture(root, monkeypatch):
    data = make(root)
    for name in ("read_ply", "read_image"):
        reader = Mock(wraps=getattr(shapenet_files, name))
        monkeypatch.setattr(shapenet_files, name, reader)
    data[2]
    assert shapenet_files.read_ply.call_count == 1
    assert shapenet_files.read_image.call_count == 1


def test_the_first_vertices_are_taken(root):
    def still(points, rng):
        return points

    whole = make(root, point_transform=still, num_points=None)[0][0]
    assert whole.shape == (3, POINTS_STORED)
    some = make(root, point_transform=still, num_points=10)[0][0]
    assert torch.equal(some, whole[:, :10])
    problem = r"ShapeNet/02/x\.ply: stores 32 points .* the 33 .*--num_points 32"
    with pytest.raises(DataError, match=problem):
        make(root, num_points=33)[0]


refused = partial(helpers.refused, only="shapenet")


def test_a_missing_folder_or_no_shapes_at_all_are_named(root):
    for name in ("ShapeNet", "ShapeNetRendering"):
        (root / name).rename(root / "elsewhere")
        refused(lambda: make(root), f"{root / name}: folder not found")
        (root / "elsewhere").rename(root / name)
    for path in root.glob("ShapeNet/*/*.ply"):
        path.unlink()
    refused(lambda: make(root), str(root / "ShapeNet"), "no such file")


def test_shapes_without_pictures_are_named_and_counted(root):
    renderings = root / "ShapeNetRendering"
    (renderings / "03" / "c").rename(root / "elsewhere")  # no folder of views
    place = str(renderings / "03/c/rendering")
    refused(lambda: make(root), "1 of 6 shapes have no image", place)
    for shape in ("02/x", "02/z", "04/a"):  # a folder, but no pictures in it
        for path in (renderings / shape / "rendering").glob("0*.png"):
            path.unlink()
    places = [str(renderings / s / "rendering") for s in ("02/x", "02/z", "03/c")]
    refused(lambda: make(root), "4 of 6 shapes", ", ".join(places) + ", ...")


def test_damaged_files_are_named_when_they_are_read(root):
    data = make(root)
    image, cloud = picture_paths(data, 4)[0], data.source.cloud_path(4)
    for path in (image, cloud):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(lambda: data[4], f"{path}: not a readable")
        path.write_bytes(content)
    cloud.write_bytes(b"")  # the message comes from a loader's process, too
    with pytest.raises(DataError, match=r"a\.ply: the file is empty"):
        batches(data, 1, epochs=(0,))
