"""What a file, a folder, a pattern and a list stand for."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from spp_det.data.folder import find_images
from spp_det.errors import UserError


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Empty files: nothing is opened to find them."""
    names = (
        "10.jpg", "2.JPG", "1.png", "notes.txt", "readme.md", "._2.jpg", "sub/b.webp", "sub/deep/a.tiff",
        ".hidden/c.jpg", "sub/[x].jpg",
    )  # fmt: skip
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def names(found: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in found]


def test_folder_is_searched_in_natural_order(photos: Path) -> None:
    found = find_images([photos])
    assert names(found, photos) == [
        "1.png",
        "2.JPG",
        "10.jpg",
        "sub/[x].jpg",
        "sub/b.webp",
        "sub/deep/a.tiff",
    ]


def test_file_is_taken_whatever_its_suffix(photos: Path) -> None:
    assert find_images([photos / "readme.md", photos / "._2.jpg"]) == [
        photos / "readme.md",
        photos / "._2.jpg",
    ]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        ("*.jpg", ["10.jpg"]),
        ("?.*", ["1.png", "2.JPG"]),
        ("[0-9]*", ["1.png", "2.JPG", "10.jpg"]),
        ("**/*.jpg", ["10.jpg", "sub/[x].jpg"]),
        ("**/a.*", ["sub/deep/a.tiff"]),
        ("sub/*", ["sub/[x].jpg", "sub/b.webp", "sub/deep/a.tiff"]),
        ("s*", ["sub/[x].jpg", "sub/b.webp", "sub/deep/a.tiff"]),
        ("*.*", ["1.png", "2.JPG", "10.jpg"]),
    ],
)
def test_patterns(photos: Path, pattern: str, wanted: list[str]) -> None:
    assert names(find_images([f"{photos}/{pattern}"]), photos) == wanted


def test_existing_file_with_brackets_is_no_pattern(photos: Path) -> None:
    assert find_images([photos / "sub/[x].jpg"]) == [photos / "sub/[x].jpg"]


def test_relative_inputs_stay_relative(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    assert find_images(["sub", "1.png"])[-2:] == [Path("sub/deep/a.tiff"), Path("1.png")]
    assert find_images(["*.jpg"]) == [Path("10.jpg")]
    assert len(find_images(["."])) == 6


def test_each_image_once_in_the_order_given(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    found = find_images(["10.jpg", "sub/../10.jpg", photos / "10.jpg", "*.png", "."])
    assert [path.as_posix() for path in found[:3]] == ["10.jpg", "1.png", "2.JPG"]
    assert len(found) == 6


def test_order_does_not_stumble_over_odd_digits(tmp_path: Path) -> None:
    for name in ("²a.jpg", "٣.jpg", "7.jpg", "007.jpg", "a7b10.jpg", "a7b9.jpg"):
        (tmp_path / name).touch()
    found = names(find_images([tmp_path]), tmp_path)
    assert found.index("a7b9.jpg") < found.index("a7b10.jpg")
    assert found.index("007.jpg") < found.index("7.jpg")
    assert len(found) == 6


def test_links_to_files_count_and_links_to_folders_do_not(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names(find_images([tmp_path]), tmp_path) == ["a.jpg", "b.jpg"]


# ---------------------------------------------------------------- lists


def test_list_of_images(photos: Path) -> None:
    path = photos / "sub/list.txt"
    path.write_bytes(
        f"\xef\xbb\xbfb.webp\r\n\r\n  ../10.jpg\nghost.jpg\n{photos}/1.png\nb.webp\n".encode("latin-1")
    )
    wanted = [photos / "sub/b.webp", photos / "sub/../10.jpg", photos / "sub/ghost.jpg", photos / "1.png"]
    assert find_images([path]) == wanted


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_list_on_standard_input(photos: Path, monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    monkeypatch.chdir(photos)
    lines = [
        "sub/b.webp",
        "",
        " a b.jpg",
        "ghost.jpg",
        str(photos / "1.png"),
        "./sub/b.webp",
        "caf\udce9.jpg",
    ]
    give(monkeypatch, os.fsencode(ending.join(lines)))
    wanted = ["10.jpg", "sub/b.webp", " a b.jpg", "ghost.jpg", str(photos / "1.png"), "caf\udce9.jpg"]
    assert find_images(["10.jpg", "-"]) == list(map(Path, wanted))


def test_standard_input_that_lists_nothing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, b" \n")
    with pytest.raises(UserError, match="-: standard input lists no images"):
        find_images(["-"])


def give(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_list_that_is_no_text(photos: Path) -> None:
    (photos / "notes.txt").write_bytes(b"\xff\xff")
    with pytest.raises(UserError, match=r"notes\.txt: not a readable text file"):
        find_images([photos / "notes.txt"])


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    root = tmp_path / "voc"
    (root / "ImageSets/Main").mkdir(parents=True)
    (root / "JPEGImages").mkdir()
    (root / "ImageSets/Main/test.txt").write_text("b 1\na\nnone -1\n")
    for name in ("a.png", "b.jpg", "none.jpg"):
        (root / "JPEGImages" / name).touch()
    return root


def test_voc_split(voc: Path) -> None:
    found = find_images([voc / "ImageSets/Main/test.txt"])
    assert found == [voc / "JPEGImages/b.jpg", voc / "JPEGImages/a.png"]


@pytest.mark.parametrize(("cwd", "entry"), [("", "ImageSets/Main/test.txt"), ("ImageSets/Main", "test.txt")])
def test_voc_split_from_inside(voc: Path, monkeypatch: pytest.MonkeyPatch, cwd: str, entry: str) -> None:
    monkeypatch.chdir(voc / cwd)
    found = find_images([entry])
    assert [path.resolve() for path in found] == [voc / "JPEGImages/b.jpg", voc / "JPEGImages/a.png"]


# ---------------------------------------------------------------- nothing found


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("nowhere.jpg", r"nowhere\.jpg: no such file or folder"),
        ("*.gif", r"\*\.gif: no such file or folder, and no pattern that matches an image"),
        ("*.md", r"\*\.md: no such"),
        ("empty", "empty: holds no images"),
        ("notes.txt", r"notes\.txt: holds no images"),
        ("", "an empty name"),
    ],
)
def test_input_that_gives_nothing_is_named(
    photos: Path, monkeypatch: pytest.MonkeyPatch, entry: str, message: str
) -> None:
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        find_images(["1.png", entry])


def test_no_inputs() -> None:
    assert find_images([]) == []
