"""Generated scenes: the annotation against the pixels, and the data set against its promises."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from spp_det.data.synthetic import CLASSES, Scene, background, generate, generate_voc, scene, sprites
from spp_det.data.synthetic import scenes as composition
from spp_det.data.synthetic.scenes import SIZES
from spp_det.data.synthetic.sprites import Sprite
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import read_image

SPLITS = {"trainval": 4, "test": 3}


def draw(index: int, seed: int = 0) -> Scene:
    return scene(np.random.default_rng([seed, index]))


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw(index) for index in range(40)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("voc") / "data"
    generate_voc(root, SPLITS, seed=3)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_types_and_shapes(scenes: list[Scene]) -> None:
    for drawn in scenes:
        height, width = drawn.image.shape[:2]
        count = len(drawn.labels)
        assert (width, height) in SIZES
        assert drawn.image.dtype == np.uint8
        assert drawn.image.shape[2] == 3
        assert drawn.boxes.dtype == np.float32
        assert drawn.boxes.shape == (count, 4)
        assert drawn.labels.dtype == np.int64
        assert drawn.difficult.dtype == np.bool_
        assert drawn.difficult.shape == (count,)
        assert drawn.masks.shape == (count, height, width)
        assert 1 <= count <= 5
        assert np.isin(drawn.labels, range(len(CLASSES))).all()


def test_boxes_are_the_half_open_extent_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for drawn in scenes:
        for mask, (x1, y1, x2, y2) in zip(drawn.masks, drawn.boxes.astype(int), strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum()  # nothing outside
            inside = mask[y1:y2, x1:x2]
            assert inside.shape == (y2 - y1, x2 - x1)  # the box lies in the image
            for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
                assert edge.any()  # and no row or column to spare


def test_no_pixel_shows_two_objects(scenes: list[Scene]) -> None:
    for drawn in scenes:
        assert drawn.masks.sum(axis=0).max() <= 1


def test_masks_lie_on_the_pixels_they_annotate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sprite painted in pure red, and nothing else: masks and picture are not shifted."""

    def red_sprite(*args: Any) -> Sprite:
        sprite = sprites.draw(*args)
        return Sprite(np.broadcast_to(np.float32([1, 0, 0]), sprite.colour.shape), sprite.alpha)

    def black(_rng: object, width: int, height: int, _part: object) -> npt.NDArray[np.float32]:
        return np.zeros((height, width, 3), np.float32)

    monkeypatch.setattr(composition, "draw", red_sprite)
    monkeypatch.setattr(composition, "background", black)
    monkeypatch.setattr(composition, "_photograph", lambda _rng, image, _light: image)
    monkeypatch.setattr(composition, "_add_clutter", lambda *_args, **_kwargs: None)
    drawn = draw(5)
    covered = drawn.image[..., 0] >= 0.5
    assert covered.any()
    seen = drawn.masks.any(axis=0)
    assert (covered != seen).sum() <= 0.01 * seen.sum()  # where edges overlap, halves may add up


def test_every_class_and_both_kinds_of_visibility_occur(scenes: list[Scene]) -> None:
    labels = np.concatenate([drawn.labels for drawn in scenes])
    assert set(labels) == set(range(len(CLASSES)))
    assert np.bincount(labels).min() >= len(labels) / len(CLASSES) / 3
    many = np.concatenate([draw(index, seed=1).difficult for index in range(100)])
    assert 0 < many.mean() < 0.1


def test_scales_span_the_stated_range(scenes: list[Scene]) -> None:
    sides = np.concatenate([(drawn.boxes[:, 2:] - drawn.boxes[:, :2]).max(axis=1) for drawn in scenes])
    assert sides.min() < 40
    assert sides.max() > 110
    assert sides.max() <= 0.6 * 288 + 3


def test_equal_generators_give_equal_scenes_and_others_do_not() -> None:
    assert np.array_equal(draw(0).image, draw(0).image)
    assert np.array_equal(draw(0).boxes, draw(0).boxes)
    assert not np.array_equal(draw(0).image[:200, :200], draw(1).image[:200, :200])
    assert not np.array_equal(draw(0).image[:200, :200], draw(0, seed=1).image[:200, :200])


def test_sizes_are_taken_and_checked() -> None:
    for size in ((96, 96), (500, 120), (130, 700)):
        drawn = scene(np.random.default_rng(0), sizes=[size])
        assert drawn.image.shape == (size[1], size[0], 3)
    with pytest.raises(ValueError, match="at least 96"):
        scene(np.random.default_rng(0), sizes=[(320, 95)])
    with pytest.raises(ValueError, match="part"):
        scene(np.random.default_rng(0), part=(0.5, 0.5))


def test_parts_of_the_photographs_do_not_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    ramp = np.tile(np.linspace(0, 1, 640, dtype=np.float32)[None, :, None], (427, 1, 3))
    monkeypatch.setattr(background, "_photos", lambda: [ramp])
    monkeypatch.setattr(background, "_recolour", lambda _rng, image: image)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert background.background(rng, 320, 240, generate.TRAIN_PART).max() < 0.555
        assert background.background(rng, 240, 320, generate.TEST_PART).min() > 0.545


def test_the_data_set_reads_back_as_drawn(root: Path) -> None:
    for split, count in SPLITS.items():
        dataset = read_voc(root, split, CLASSES)
        assert len(dataset) == count
        for index, record in enumerate(dataset.records):
            part = generate.TEST_PART if split == "test" else generate.TRAIN_PART
            drawn = scene(generate.image_rng(3, split, index), part=part)
            assert np.array_equal(record.boxes, drawn.boxes)
            assert np.array_equal(record.labels, drawn.labels)
            assert np.array_equal(record.difficult, drawn.difficult)
            image = read_image(record.path)
            assert record.size == (image.shape[1], image.shape[0])
            assert np.abs(image.astype(int) - drawn.image).mean() < 6  # only JPEG lies between them


def test_same_seed_same_bytes_and_another_seed_other_pictures(root: Path, tmp_path: Path) -> None:
    generate_voc(tmp_path / "again", SPLITS, seed=3)
    assert files(tmp_path / "again") == files(root)
    generate_voc(tmp_path / "other", SPLITS, seed=4)
    images, others = files(root / "JPEGImages"), files(tmp_path / "other" / "JPEGImages")
    assert set(images) == set(others)
    assert all(images[name] != others[name] for name in images)
    assert len(set(images.values())) == sum(SPLITS.values())  # nor do two images of a seed agree


def test_an_image_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    generate_voc(tmp_path / "few", {"test": 1, "pretrain": 1, "trainval": 2}, seed=3)
    whole = files(root)
    for name, data in files(tmp_path / "few" / "JPEGImages").items():
        assert name.startswith("pretrain") or whole[f"JPEGImages/{name}"] == data


def test_an_equal_data_set_is_kept_and_a_damaged_one_made_again(tmp_path: Path) -> None:
    root = tmp_path / "data"
    generate_voc(root, {"train": 2})
    before, touched = files(root), (root / "JPEGImages").stat().st_mtime_ns
    generate_voc(root, {"train": 2})
    assert (root / "JPEGImages").stat().st_mtime_ns == touched
    (root / "JPEGImages" / "train_00001.jpg").unlink()
    generate_voc(root, {"train": 2})
    assert files(root) == before
    generate_voc(root, {"train": 1}, seed=1)
    assert set(files(root / "Annotations")) == {"train_00000.xml"}
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_interrupted_generation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "data"
    generate_voc(root, {"train": 1})
    before = files(root)
    monkeypatch.setattr(generate, "_write_scene", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        generate_voc(root, {"train": 2})
    with pytest.raises(KeyboardInterrupt):
        generate_voc(tmp_path / "fresh", {"train": 2})
    assert files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


@pytest.mark.parametrize("content", [None, "not json", json.dumps(["a list"])])
def test_what_it_did_not_make_is_never_replaced(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    if content is not None:
        (tmp_path / generate.MARKER).write_text(content)
    with pytest.raises(UserError, match="not a generated data set"):
        generate_voc(tmp_path, {"train": 1})
    with pytest.raises(UserError, match="not a folder"):
        generate_voc(tmp_path / "precious.txt", {"train": 1})
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_data_set_with_something_of_the_user_in_it_is_not_replaced(tmp_path: Path) -> None:
    generate_voc(tmp_path, {"train": 1})
    (tmp_path / "runs").mkdir()
    generate_voc(tmp_path, {"train": 1})
    with pytest.raises(UserError, match="runs"):
        generate_voc(tmp_path, {"train": 2})
    assert (tmp_path / "runs").is_dir()


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    generate_voc(tmp_path, {"train": 1, "val": 0})
    assert (tmp_path / "JPEGImages" / "train_00000.jpg").is_file()
    assert (tmp_path / "ImageSets" / "Main" / "val.txt").read_text() == ""


@pytest.mark.parametrize(("splits", "seed"), [({"train": -1}, 0), ({"../x": 1}, 0), ({"train": 1}, -1)])
def test_bad_arguments(tmp_path: Path, splits: dict[str, int], seed: int) -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        generate_voc(tmp_path / "data", splits, seed)
    assert not list(tmp_path.iterdir())


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
