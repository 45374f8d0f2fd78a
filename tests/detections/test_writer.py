"""Detections in files: what is written reads back as it was, under names that stay apart, or not at all."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tempfile
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from spp_det.data.records import Detections
from spp_det.data.voc_xml import read_annotation
from spp_det.detections.devkit import OPEN_AT_ONCE
from spp_det.detections.lists import list_names, write_lists
from spp_det.detections.output import FORMATS, Output
from spp_det.detections.types import DetectedImage
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError

CLASSES = ("cat", "dog")
WIDTH, HEIGHT = 120, 80
BOXES = [(3.3, 4.7, 60.123, 70.9), (0, 0, 120, 80), (50.55, 10.1, 50.95, 79.999)]
LABELS, SCORES = [1, 0, 1], [1.2345678, 0.1, -0.7]


def detected(path, boxes=BOXES, labels=LABELS, scores=SCORES) -> DetectedImage:
    image = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)
    found = Detections(
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        scores=np.array(scores, np.float32),
    )
    return DetectedImage(Path(path), image, found)


def nothing(path) -> DetectedImage:
    return detected(path, [], [], [])


def write(folder: Path, found, **options) -> DetectionWriter:
    writer = DetectionWriter(folder, CLASSES, [image.path for image in found], Output(**options))
    with writer:
        for image in found:
            writer.add(image)
    return writer


def rows_of(folder: Path):
    return json.loads((folder / "detections.json").read_text())


def listing_of(folder: Path):
    return json.loads((folder / "images.json").read_text())


def files_below(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_without_options_there_are_the_two_coco_files_and_the_journal(tmp_path):
    write(tmp_path / "out", [detected("a.jpg")])
    assert files_below(tmp_path / "out") == {"detections.json", "images.json", "detections.jsonl"}


def test_coco_rows_read_back_as_the_boxes_and_scores_that_were_found(tmp_path):
    found = [detected("a.jpg"), nothing("b.jpg"), detected("c.jpg", BOXES[:1], [0], [-1.5])]
    writer = write(tmp_path, found)
    rows = rows_of(tmp_path)
    assert [row["image_id"] for row in rows] == [1, 1, 1, 3]
    assert [row["category_id"] for row in rows] == [2, 1, 2, 1]
    assert writer.found == 4
    x, y, w, h = np.array([row["bbox"] for row in rows]).T
    expected = np.float32([*BOXES, BOXES[0]])
    np.testing.assert_array_equal(np.float32([x, y]).T, expected[:, :2])
    np.testing.assert_array_equal(np.float32([x + w, y + h]).T, expected[:, 2:])
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), np.float32([*SCORES, -1.5]))


def test_the_listing_says_what_the_ids_mean(tmp_path):
    write(tmp_path, [detected("a.jpg"), nothing("b.png")])
    assert listing_of(tmp_path) == {
        "images": [
            {"id": 1, "file_name": "a.jpg", "width": WIDTH, "height": HEIGHT},
            {"id": 2, "file_name": "b.png", "width": WIDTH, "height": HEIGHT},
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "skipped": [],
    }


def test_csv_reads_back_to_the_very_same_numbers_and_quotes_names_with_commas(tmp_path):
    write(tmp_path, [detected('a,"b".jpg')], formats=["csv"])
    with (tmp_path / "detections.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == ['a,"b".jpg'] * 3
    assert [row["class"] for row in rows] == ["dog", "cat", "dog"]
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), np.float32(SCORES))
    boxes = np.float32([[row[key] for key in ("x1", "y1", "x2", "y2")] for row in rows])
    np.testing.assert_array_equal(boxes, np.float32(BOXES))


def test_yolo_reads_back_to_the_same_boxes(tmp_path):
    write(tmp_path, [detected("a.jpg"), nothing("b.jpg")], formats=["yolo"])
    label, cx, cy, w, h, score = np.loadtxt(tmp_path / "yolo" / "a.txt").T
    corners = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]).T * [WIDTH, HEIGHT, WIDTH, HEIGHT]
    np.testing.assert_allclose(corners, np.float32(BOXES), atol=1e-4)
    assert label.tolist() == LABELS
    np.testing.assert_array_equal(score.astype(np.float32), np.float32(SCORES))
    assert (tmp_path / "yolo" / "b.txt").read_text() == ""  # looked at, and nothing there


def test_voc_holds_whole_pixels_for_other_readers_and_reads_back_to_the_same_boxes(tmp_path):
    write(tmp_path, [detected("a.jpg"), nothing("b.jpg")], formats=["voc"])
    annotation = read_annotation(tmp_path / "voc" / "a.xml")
    np.testing.assert_array_equal(annotation.boxes, np.float32(BOXES))
    boxes = [
        [int(edge.text) for edge in box]
        for box in ElementTree.parse(tmp_path / "voc" / "a.xml").iter("bndbox")
    ]
    assert boxes == [[4, 6, 60, 71], [1, 1, 120, 80], [52, 11, 52, 80]]
    assert annotation.names == ("dog", "cat", "dog")
    assert annotation.size == (WIDTH, HEIGHT)
    assert annotation.file_name == "a.jpg"
    scores = [float(e.text) for e in ElementTree.parse(tmp_path / "voc" / "a.xml").iter("score")]
    np.testing.assert_array_equal(np.float32(scores), np.float32(SCORES))
    assert len(read_annotation(tmp_path / "voc" / "b.xml").boxes) == 0


def test_score_leaves_detections_out_of_every_format_and_keeps_those_that_equal_it(tmp_path):
    writer = write(tmp_path, [detected("a.jpg")], formats=FORMATS, score=float(np.float32(0.1)))
    assert writer.found == 2
    assert len(rows_of(tmp_path)) == 2
    assert len((tmp_path / "detections.csv").read_text().splitlines()) == 3
    assert len((tmp_path / "yolo" / "a.txt").read_text().splitlines()) == 2
    assert len(read_annotation(tmp_path / "voc" / "a.xml").boxes) == 2


def as_jpeg(shade: int) -> np.ndarray:
    file = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (shade,) * 3).save(file, "JPEG", quality=92)
    return np.asarray(Image.open(file)).astype(int)


@pytest.mark.parametrize(
    ("options", "drawn"), [({}, False), ({"score": -1.0}, True), ({"draw_score": -1.0}, True)]
)
def test_pictures_show_only_what_scores_above_zero_unless_another_score_is_given(tmp_path, options, drawn):
    found = [detected("a.jpg", [(20, 20, 90, 70)], [0], [-0.5])]
    writer = write(tmp_path, found, draw=True, **options)
    picture = np.asarray(Image.open(tmp_path / "pictures" / "a.jpg")).astype(int)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    assert (abs(picture - as_jpeg(127)).max() > 30) == drawn
    assert writer.found == 1  # it is in the lists all the same


def test_pictures_keep_red_red(tmp_path):
    red = nothing("a.jpg").image.copy()
    red[:] = (230, 20, 40)
    write(tmp_path, [DetectedImage(Path("a.jpg"), red, nothing("a.jpg").detections)], draw=True)
    pixel = np.asarray(Image.open(tmp_path / "pictures" / "a.jpg"))[40, 60]
    np.testing.assert_allclose(pixel.astype(int), (230, 20, 40), atol=6)


def test_an_unknown_format_is_an_error():
    with pytest.raises(UserError, match=r"pdf.*coco, voc, yolo, csv"):
        Output(formats=["csv", "pdf"])


def test_folders_below_the_common_one_are_kept_in_every_name(tmp_path):
    found = [detected(tmp_path / "in" / "one" / "a.jpg"), nothing(tmp_path / "in" / "two" / "a.jpg")]
    write(tmp_path / "out", found, formats=["voc", "yolo", "csv"], draw=True)
    assert [image["file_name"] for image in listing_of(tmp_path / "out")["images"]] == [
        "one/a.jpg",
        "two/a.jpg",
    ]
    names = {f"{kind}/{folder}/a" for kind in ("voc", "yolo", "pictures") for folder in ("one", "two")}
    assert {name.rsplit(".", 1)[0] for name in files_below(tmp_path / "out") if name.count("/") == 2} == names


def test_files_that_differ_only_in_their_suffix_do_not_overwrite_each_other(tmp_path):
    write(tmp_path, [detected("a.jpg"), nothing("a.png")], formats=["yolo"])
    assert len((tmp_path / "yolo" / "a.txt").read_text().splitlines()) == 3
    assert (tmp_path / "yolo" / "a.png.txt").read_text() == ""


def test_not_even_a_name_that_looks_like_the_way_out_of_a_clash_is_overwritten(tmp_path):
    write(tmp_path, [nothing("a.jpg"), nothing("a.png.jpg"), nothing("a.png")], formats=["yolo"])
    assert len(list((tmp_path / "yolo").glob("*.txt"))) == 4


def test_images_from_a_folder_beside_the_current_one_stay_inside_the_output(tmp_path, monkeypatch):
    """``detect model ../photos here`` gives paths with dots in them, which must not lead anywhere."""
    (tmp_path / "desk" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "desk")
    write(tmp_path / "out", [nothing("../photos/a.jpg"), nothing("here/b.jpg")], formats=["yolo"])
    assert [image["file_name"] for image in listing_of(tmp_path / "out")["images"]] == [
        "photos/a.jpg",
        "desk/here/b.jpg",
    ]
    assert {name for name in files_below(tmp_path / "out") if name.endswith(".txt")} == {
        "yolo/photos/a.txt",
        "yolo/desk/here/b.txt",
        "yolo/classes.txt",
    }


def test_a_name_that_is_not_unicode_is_listed_too(tmp_path):
    """Old archives hold names in Latin-1, which Python reads with lone surrogates."""
    write(tmp_path, [detected("caf\udce9.jpg")], formats=["csv", "voc", "yolo"])
    assert len(listing_of(tmp_path)["images"]) == 1
    assert len((tmp_path / "detections.csv").read_bytes().splitlines()) == 4


def test_no_images_give_an_empty_list(tmp_path):
    assert write(tmp_path, [], formats=["csv"]).found == 0
    assert rows_of(tmp_path) == []
    assert listing_of(tmp_path)["images"] == []


def write_and_fail(folder: Path, error: type[BaseException], **options) -> None:
    with DetectionWriter(folder, CLASSES, [Path("a.jpg"), Path("b.jpg")], Output(**options)) as writer:
        writer.add(detected("a.jpg", BOXES[:1], [0], [0.5]))
        raise error


@pytest.mark.parametrize("error", [UserError, KeyboardInterrupt])
def test_an_interrupted_run_leaves_no_list_and_no_scrap(tmp_path, error):
    with pytest.raises(error):
        write_and_fail(tmp_path, error, formats=FORMATS)
    # Those of a finished image are whole.
    assert files_below(tmp_path) == {"voc/a.xml", "yolo/a.txt", "detections.jsonl"}


def test_a_run_removes_all_that_an_earlier_one_wrote_and_nothing_else(tmp_path):
    """Also what one wrote that was interrupted, twice."""
    for photo in ("holiday", "one/mine"):
        (tmp_path / "pictures" / photo).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / photo).touch()
    folders = [detected(f"one/{i}.jpg") for i in range(3)] + [detected("two/0.jpg")]
    write(tmp_path, folders, formats=FORMATS, draw=True, crops=True)
    with pytest.raises(RuntimeError):
        write_and_fail(tmp_path, RuntimeError, formats=["csv", "voc"])
    write(tmp_path, [nothing("c.jpg")], formats=["yolo"])
    ours = {"detections.json", "images.json", "detections.jsonl"}
    ours |= {"yolo/c.txt", "yolo/classes.txt", "yolo/data.yaml"}
    assert files_below(tmp_path) == ours | {"pictures/holiday", "pictures/one/mine"}
    assert not (tmp_path / "crops").exists()


def test_a_journal_that_names_files_elsewhere_removes_none(tmp_path):
    (tmp_path / "mine").touch()
    (tmp_path / "out").mkdir()
    lines = [{"run": {}, "files": ["../mine"]}, {"files": [str(tmp_path / "mine"), 3, ""]}]
    (tmp_path / "out" / "detections.jsonl").write_text("\n".join(map(json.dumps, lines)))
    write(tmp_path / "out", [nothing("a.jpg")])
    assert (tmp_path / "mine").exists()


# ---------------------------------------------------------------- going on


ALL = {"formats": FORMATS, "draw": True, "crops": True}


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> tuple[Path, list[DetectedImage]]:
    """A run over four images, one of them empty and two of the same stem, and one that cannot be read."""
    found = [detected("x/a.jpg"), detected("x/a.png"), nothing("y/b.jpg"), detected("y/a.jpg")]
    folder = tmp_path_factory.mktemp("unbroken")
    go_on(folder, found)
    return folder, found


BROKEN = UnreadableImageError("broken.jpg: the file is empty")
SKIPPED = [{"file": "broken.jpg", "reason": "the file is empty"}]


def go_on(folder: Path, found, upto: int | None = None, run=None, **options) -> int:
    """Begin or resume, and end or, after so many images, be killed; how many were done before."""
    paths = [*(image.path for image in found[:2]), Path("broken.jpg"), *(image.path for image in found[2:])]
    by_path = {image.path: image for image in found}
    writer = DetectionWriter(folder, CLASSES, paths, Output(**{**ALL, **options}), resume=True, run=run)
    writer.__enter__()
    done = writer.done
    for path in paths[done:upto]:
        writer.add(by_path[path]) if path in by_path else writer.skip(path, BROKEN)
    if upto is None:
        writer.__exit__(None, None, None)
        assert (writer.images, writer.found, writer.skipped) == (4, 9, SKIPPED)
        assert json.loads((folder / "images.json").read_text())["skipped"] == SKIPPED
    return done


@pytest.mark.parametrize("killed_after", range(6))
def test_a_run_that_was_killed_goes_on_where_it_was_and_ends_in_the_same_bytes(
    unbroken, tmp_path, killed_after
):
    folder, found = unbroken
    go_on(tmp_path, found, killed_after)
    assert not (tmp_path / "detections.json").exists()
    assert go_on(tmp_path, found) == killed_after
    assert contents(tmp_path) == contents(folder)


@settings(max_examples=10)
@given(share=st.floats(0, 1))
def test_wherever_the_journal_is_torn_the_run_ends_in_the_same_bytes(unbroken, share):
    folder, found = unbroken
    with tempfile.TemporaryDirectory() as place:
        copy = shutil.copytree(folder, Path(place) / "copy")
        data = (copy / "detections.jsonl").read_bytes()
        (copy / "detections.jsonl").write_bytes(data[: round(share * len(data))])
        go_on(copy, found)
        assert contents(copy) == contents(folder)


def test_killed_inside_the_writing_of_a_file_it_leaves_no_scrap_in_the_end(unbroken, tmp_path, monkeypatch):
    folder, found = unbroken

    def killed(path: Path, _data: object) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / ".0123456789abcdef.partial").write_text("hal")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("spp_det.detections.writer.write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            go_on(tmp_path, found)
    assert go_on(tmp_path, found) == 0
    assert contents(tmp_path) == contents(folder)


def test_a_run_that_is_done_is_not_done_again(unbroken, tmp_path):
    folder, found = unbroken
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert go_on(copy, found) == 5
    assert contents(copy) == contents(folder)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"draw": False}, "--draw was true and is now false"),
        ({"score": 0.5}, "--score was null and is now 0.5"),
        ({"formats": ["csv"]}, "--format was csv, devkit, voc, yolo and is now csv"),
        ({"run": {"model": "b"}}, 'model was null and is now "b"'),
    ],
)
def test_another_run_is_not_gone_on_with_and_nothing_is_touched(unbroken, tmp_path, options, said):
    folder, found = unbroken
    copy = shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(UserError) as caught:
        go_on(copy, found, **options)
    assert said in str(caught.value)
    assert str(copy) in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"images was 5, .* and is now 4, "):
        go_on(copy, found[:3])
    assert contents(copy) == contents(folder)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    """Of 40 detections each, which would take 15 kB an image."""
    image = detected("0.jpg", [(0, 0, 9.5, 9.5)] * 40, [0] * 40, [1.5] * 40)
    paths = [Path(f"{i}.jpg") for i in range(150)]
    with DetectionWriter(tmp_path, CLASSES, paths) as writer:
        for number, path in enumerate(paths):
            if number == 50:
                tracemalloc.start()
            writer.add(DetectedImage(path, image.image, image.detections))
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 100 * 1000
    assert peak < 500_000  # while the lists are written
    assert len(rows_of(tmp_path)) == 150 * 40


# ---------------------------------------------------------------- crops and the devkit's files


def test_crops_are_the_pixels_of_the_boxes_that_are_drawn_in_a_folder_a_class(tmp_path):
    image = detected("a.jpg").image.copy()
    image[10:30, 40:70] = (230, 20, 40)
    boxes, labels = [(39.6, 10.2, 70.4, 29.8), (0, 0, 1e-3, 80), (5, 5, 5, 9), (1, 1, 9, 9)], [0, 1, 1, 0]
    found = detected("in/a.jpg", boxes, labels, [2.0, 1.0, 0.5, -0.1])
    others = [nothing("b.jpg"), detected("out/a.jpg", boxes[:1], [1], [0.1])]
    writer = DetectionWriter(
        tmp_path, ("a/b: c", "A_b_ C"), [found.path, *(i.path for i in others)], Output(crops=True)
    )
    with writer:
        for one in (DetectedImage(found.path, image, found.detections), *others):
            writer.add(one)
    crops = {name for name in files_below(tmp_path) if name.startswith("crops/")}
    # The third has no pixel, the fourth scores too little.
    assert crops == {"crops/a_b_ c/in/a-1.jpg", "crops/A_b_ C_2/in/a-2.jpg", "crops/A_b_ C_2/out/a-1.jpg"}
    pixels = np.asarray(Image.open(tmp_path / "crops" / "a_b_ c" / "in" / "a-1.jpg")).astype(int)
    assert pixels.shape == (20, 30, 3)
    np.testing.assert_allclose(pixels[5:-5, 5:-5].mean(axis=(0, 1)), (230, 20, 40), atol=6)
    assert Image.open(tmp_path / "crops" / "A_b_ C_2" / "in" / "a-2.jpg").size == (1, 80)


def test_devkit_files_count_from_one_with_the_last_pixel_and_keep_every_digit_of_scores(tmp_path):
    write(
        tmp_path,
        [detected("in/000005.jpg"), detected("in/7.png", [(0, 0, 10, 20)], [0], [3e-8])],
        formats=["devkit"],
    )
    folder = tmp_path / "devkit"
    assert (
        folder / "comp4_det_test_cat.txt"
    ).read_text() == "000005 0.1 1.0 1.0 120.0 80.0\n7 3e-08 1.0 1.0 10.0 20.0\n"
    scores = [float(line.split()[1]) for line in (folder / "comp4_det_test_dog.txt").read_text().splitlines()]
    np.testing.assert_array_equal(np.float32(scores), np.float32([SCORES[0], SCORES[2]]))


@pytest.mark.parametrize(
    ("classes", "path", "formats", "said"),
    [
        (("a/b",), "a.jpg", ["devkit"], "a/b"),
        (("a",), "a\nb.jpg", ["devkit"], "line"),
        (("a\x01",), "a.jpg", ["voc"], "XML"),
    ],
)
def test_a_name_that_a_format_cannot_hold_is_refused_before_any_work(tmp_path, classes, path, formats, said):
    with pytest.raises(UserError, match=said) as caught:
        DetectionWriter(tmp_path / "out", classes, [Path(path)], Output(formats))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_lists_are_not_in_their_place_before_all_images_are_done(tmp_path):
    with DetectionWriter(tmp_path, CLASSES, [Path("a.jpg")], Output(["csv"])) as writer:
        writer.add(detected("a.jpg"))
        for name in ("detections.json", "images.json", "detections.csv"):
            assert not (tmp_path / name).exists()
    for name in ("detections.json", "images.json", "detections.csv"):
        assert (tmp_path / name).exists()


# ---------------------------------------------------------------- the lists


def entry(name, *found):
    return {"file_name": name, "width": 9, "height": 8, "found": list(found)}


def test_of_many_classes_each_has_its_file_and_few_are_open_at_once(tmp_path):
    classes = [f"class {i}" for i in range(2 * OPEN_AT_ONCE + 1)]
    found = [[label, label / 2, 0, 0, 5, 5] for label in (0, OPEN_AT_ONCE, 2 * OPEN_AT_ONCE)]
    formats = frozenset({"devkit"})
    write_lists(
        tmp_path, lambda: iter([entry("a/1.jpg", *found), entry("a/1.png", found[1])]), classes, formats
    )
    written = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert written == set(list_names(classes, formats))
    texts = [(tmp_path / "devkit" / f"comp4_det_test_{name}.txt").read_text() for name in classes]
    assert texts[OPEN_AT_ONCE] == "a/1 100.0 1 1 5 5\na/1.png 100.0 1 1 5 5\n"
    assert [i for i, text in enumerate(texts) if text] == [0, OPEN_AT_ONCE, 2 * OPEN_AT_ONCE]


def test_a_failure_leaves_neither_a_scrap_nor_a_list_that_belongs_to_others(tmp_path):
    (tmp_path / "detections.json").write_text("of another run")

    def broken():
        yield entry("a.jpg", [0, 1, 0, 0, 5, 5])
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_lists(tmp_path, broken, ["a"], frozenset())
    assert list(tmp_path.iterdir()) == []


def test_no_images(tmp_path):
    write_lists(tmp_path, lambda: iter([]), ["a"], frozenset())
    assert json.loads((tmp_path / "detections.json").read_text()) == []
    assert json.loads((tmp_path / "images.json").read_text())["images"] == []
