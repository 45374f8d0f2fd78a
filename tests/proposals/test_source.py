"""The source of windows: which image is which in a file, the edges of images, and the keys of the cache."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spp_det.boxes import as_boxes
from spp_det.config.settings import Proposals
from spp_det.data.synthetic import scene
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.proposals import source as source_module
from spp_det.proposals.edges import EdgeBoxes
from spp_det.proposals.files import write_proposals
from spp_det.proposals.selective import selective_search
from spp_det.proposals.source import WindowSource, proposals_of
from spp_det.runtime.cache import Cache

PIXELS = np.zeros((60, 80, 3), np.uint8)


@pytest.fixture(scope="module")
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "JPEGImages" / "one.png"
    path.parent.mkdir()
    Image.fromarray(scene(np.random.default_rng(0), sizes=((120, 100),)).image).save(path)
    return path


@pytest.fixture
def imported(tmp_path):
    """A source of the windows of a file that is made for it."""

    def make(name: str = "windows.npz", **windows: object) -> WindowSource:
        path = tmp_path / name
        write_proposals(path, {image_id: as_boxes(boxes) for image_id, boxes in windows.items()})
        return WindowSource(Proposals(mode="file", file=path))

    return make


def artefacts(cache: Cache) -> int:
    return len(list(cache.folder.rglob("*.safetensors")))


# ---------------------------------------------------------------- which windows


@pytest.mark.parametrize("mode", ["fast", "paper", "quality"])
def test_selective_search_is_what_it_is_alone(photo, mode):
    image = read_image(photo)
    windows = WindowSource(Proposals(mode=mode, max_side=90)).windows(image, photo)
    assert np.array_equal(windows, selective_search(image, mode, 90))
    assert len(windows) > 10


def test_edge_boxes_are_what_they_are_alone(photo, edge_model):
    image = read_image(photo)
    windows = WindowSource(Proposals(mode="edgeboxes", edge_model=edge_model, max_side=90)).windows(
        image, photo
    )
    assert np.array_equal(windows, EdgeBoxes(edge_model)(image, 90))
    assert len(windows) > 10


def test_windows_from_a_file_are_clipped_sorted_and_none_is_empty_or_there_twice(imported):
    source = imported(
        one=[[70, 50, 90, 70], [-5, -5, 5, 5], [80, 0, 90, 10], [3, 3, 3, 9], [9, 3, 5, 9], [70, 50, 80, 60]]
    )
    windows = source.windows(PIXELS, Path("one.jpg"))
    assert windows.tolist() == [[0, 0, 5, 5], [70, 50, 80, 60]]
    assert windows.dtype == np.float32
    assert imported(one=[]).windows(PIXELS, Path("one.jpg")).shape == (0, 4)


def test_an_image_all_whose_windows_are_elsewhere_is_warned_about(imported, caplog):
    source = imported(one=[[100, 100, 110, 110]], two=[])
    with caplog.at_level(logging.WARNING):
        assert source.windows(PIXELS, Path("two.jpg")).shape == (0, 4)
        assert not caplog.records
        assert source.windows(PIXELS, Path("one.jpg")).shape == (0, 4)
    assert "no window of one lies inside its 80x60 image" in caplog.text


# ---------------------------------------------------------------- which image is which


@pytest.mark.parametrize(
    ("path", "image_id", "name"),
    [
        ("x/000005.jpg", "000005", "000005"),
        ("x/000005.jpg", None, "000005"),
        ("x/other.jpg", "000005", "000005"),
        ("x/a.b.jpg", None, "a.b"),
        ("x/photo.jpg", None, "photo.jpg"),
        ("x/photo.jpg", "photo", "photo.jpg"),
        ("data/JPEGImages/2008/1.jpg", None, "2008/1"),
        ("data/JPEGImages/2008/1.jpg", "2008/1", "2008/1"),
        ("data/2009/1.jpg", None, "1"),
    ],
)
def test_an_image_is_known_by_its_id_or_the_end_of_its_path(imported, path, image_id, name):
    names = ["000005", "a.b", "photo.jpg", "2008/1", "1"]
    source = imported(**{known: [[0, 0, 1 + index, 5]] for index, known in enumerate(names)})
    source.check([(Path(path), image_id)])
    assert source.windows(PIXELS, Path(path), image_id).tolist() == [[0, 0, 1 + names.index(name), 5]]


def test_an_unknown_image_is_named_with_the_file(imported, tmp_path):
    source = imported(one=[])
    for path, image_id, named in (("x/two.jpg", None, "two"), ("x/1.jpg", "000002", "000002")):
        for look in (
            lambda path=path, image_id=image_id: source.check(
                [(Path("one.jpg"), None), (Path(path), image_id)]
            ),
            lambda path=path, image_id=image_id: source.windows(PIXELS, Path(path), image_id),
        ):
            with pytest.raises(UserError) as caught:
                look()
            assert str(caught.value).startswith(str(tmp_path / "windows.npz"))
            assert f"the image {named} ({path})" in str(caught.value)


def test_two_images_cannot_have_the_windows_of_one(imported):
    source = imported(one=[])
    source.check([(Path("a/one.jpg"), None), (Path("a/one.jpg"), None)])
    with pytest.raises(UserError, match=r"its one may be a/one.jpg or b/one.jpg"):
        source.check([(Path("a/one.jpg"), None), (Path("b/one.jpg"), None)])


def test_a_search_needs_no_names():
    WindowSource(Proposals()).check([(Path("a/one.jpg"), None), (Path("b/one.jpg"), "x")])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Proposals(mode="file"), "proposals.file = None"),
        (Proposals(mode="edgeboxes"), "proposals.edge_model = None"),
        (Proposals(mode="file", file=Path("none.npz")), "none.npz: No such file"),
        (Proposals(mode="edgeboxes", edge_model=Path("none.yml")), "none.yml: No such file"),
    ],
)
def test_what_the_mode_needs_is_asked_for_at_once(settings, said):
    with pytest.raises(UserError, match=said):
        WindowSource(settings)


def test_words_of_the_command_line_are_checked():
    assert proposals_of("paper", 500) == Proposals(mode="paper", max_side=500)
    for words in (("slow",), ("fast", 8), ("file",), ("file", None, Path("a.txt"))):
        with pytest.raises(UserError, match=r"the options: proposals\."):
            proposals_of(*words)


# ---------------------------------------------------------------- the cache


def test_what_is_in_the_cache_is_not_computed_again(photo, tmp_path, monkeypatch):
    source, cache = WindowSource(Proposals()), Cache(tmp_path / "cache")
    first = source.windows_of_file(photo, "one", cache)
    assert np.array_equal(first.boxes, selective_search(read_image(photo)))
    assert first.size == (120, 100)
    assert first.seconds > 0
    monkeypatch.setattr(source_module, "decode", None)
    again = source.windows_of_file(photo, "another", cache)
    assert np.array_equal(again.boxes, first.boxes)
    assert (again.size, again.key, again.seconds) == (first.size, first.key, None)


def test_without_a_cache_everything_is_computed(photo):
    source = WindowSource(Proposals())
    a, b = (source.windows_of_file(photo, None, None) for _ in range(2))
    assert np.array_equal(a.boxes, b.boxes)
    assert b.seconds is not None


def test_a_file_counts_by_its_content(photo, imported, tmp_path):
    cache = Cache(tmp_path / "cache")

    def boxes(source: WindowSource, image_id: str = "one") -> list[list[float]]:
        return source.windows_of_file(photo, image_id, cache).boxes.tolist()

    assert boxes(imported("a.npz", one=[[0, 0, 5, 5]], two=[[1, 1, 2, 2]])) == [[0, 0, 5, 5]]
    assert artefacts(cache) == 1
    assert boxes(imported("renamed.npz", one=[[0, 0, 5, 5]], two=[[1, 1, 2, 2]])) == [[0, 0, 5, 5]]
    assert artefacts(cache) == 1
    assert boxes(imported("a.npz", one=[[0, 0, 6, 6]], two=[[1, 1, 2, 2]])) == [[0, 0, 6, 6]]
    assert boxes(imported("a.npz", one=[[0, 0, 6, 6]], two=[[1, 1, 2, 2]]), "two") == [[1, 1, 2, 2]]
    assert artefacts(cache) == 3


def test_every_way_to_windows_has_artefacts_of_its_own(photo, edge_model, imported, tmp_path):
    cache = Cache(tmp_path / "cache")
    other = tmp_path / "other.yml"
    other.write_bytes(gzip.decompress(edge_model.read_bytes()))  # another file, if not other edges
    sources = [
        *(WindowSource(Proposals(mode=mode)) for mode in ("fast", "paper")),
        WindowSource(Proposals(engine="opencv")),
        WindowSource(Proposals(max_side=50)),
        *(
            WindowSource(Proposals(mode="edgeboxes", edge_model=model, max_side=side))
            for model, side in ((edge_model, None), (edge_model, 50), (other, None))
        ),
        imported(one=[[0, 0, 5, 5]]),
    ]
    found = [source.windows_of_file(photo, "one", cache).boxes for source in sources]
    assert artefacts(cache) == len(sources)
    for source, boxes in zip(sources, found, strict=True):
        assert np.array_equal(source.windows_of_file(photo, "one", cache).boxes, boxes)
    assert artefacts(cache) == len(sources)


def test_a_file_that_is_no_image_is_said_to_be_one(tmp_path, imported):
    (tmp_path / "one.jpg").write_text("not a photo")
    for path in (tmp_path / "one.jpg", tmp_path / "gone" / "one.jpg"):
        for source in (WindowSource(Proposals()), imported(one=[])):
            with pytest.raises(UnreadableImageError, match=r"one\.jpg"):
                source.windows_of_file(path, "one", Cache(tmp_path / "cache"))
