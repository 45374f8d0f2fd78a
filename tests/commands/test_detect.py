"""Detection in files: what its folder holds, and that nothing is begun on a wrong request."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spp_det.commands.detect import Summary, detect_to_folder, windows_for
from spp_det.config.settings import Proposals
from spp_det.data.synthetic import CLASSES
from spp_det.data.voc_xml import read_annotation
from spp_det.detections.output import Output
from spp_det.detections.reader import read_detections
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import CannotResumeError, UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.model.detector import Detector
from spp_det.model.ensemble import Ensemble
from spp_det.model.probability import Probabilities
from spp_det.proposals.files import write_proposals
from spp_det.runtime.threads import on_one_core
from tests.command_line import assert_one_line, names_of, rows_of, spp_det


def test_the_summary_counts_what_the_folder_holds(run_detector, run_paths, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    summary = detect_to_folder(
        run_detector, [run_paths[0], tmp_path / "text.jpg", run_paths[1]], tmp_path / "out"
    )
    reason = "not an image, or in a format that is not supported"
    assert summary.skipped == [{"file": str(tmp_path / "text.jpg"), "reason": reason}]
    assert (summary.images, summary.read_now) == (2, 2)
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert summary.found == len(rows) > 0
    listing = json.loads((tmp_path / "out" / "images.json").read_text())
    assert len(listing["images"]) == 2
    assert listing["skipped"] == summary.skipped


def test_the_number_of_workers_changes_no_byte(run_detector, run_paths, tmp_path):
    for workers in (1, 3):
        detect_to_folder(run_detector, run_paths, tmp_path / str(workers), Output(["csv"]), workers=workers)
    for name in ("detections.json", "images.json", "detections.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_strict_raises_and_leaves_no_list(run_detector, run_paths, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        detect_to_folder(run_detector, [run_paths[0], tmp_path / "text.jpg"], tmp_path / "out", strict=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


@pytest.mark.parametrize("options", [{"only": "koala"}, {"only": ","}])
def test_a_wrong_request_makes_no_folder(run_detector, run_paths, tmp_path, options):
    with pytest.raises(UserError):
        detect_to_folder(run_detector, run_paths, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- windows from elsewhere


def test_a_file_that_lacks_an_image_makes_no_folder(run_detector, run_paths, tmp_path):
    write_proposals(tmp_path / "a.json", {})
    source = windows_for(run_detector.searches, tmp_path / "a.json")
    with pytest.raises(UserError, match=r"a.json: has no windows for the image test_00000"):
        detect_to_folder(run_detector, run_paths, tmp_path / "out", source=source)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("trained", "file", "edge_model", "said"),
    [
        ({"mode": "file"}, None, None, "--proposals FILE"),
        ({"mode": "edgeboxes"}, None, None, "--edge-model FILE"),
        ({"mode": "fast"}, Path("a.npz"), Path("a.yml"), "not both"),
        ({"mode": "fast"}, Path("a.txt"), None, ".mat, .npz, .json"),
        ({"mode": "file"}, Path("a.npz"), None, "a.npz: No such file"),
        ({"mode": "edgeboxes"}, None, Path("a.yml"), "a.yml: No such file"),
    ],
)
def test_windows_from_elsewhere_are_asked_for(trained, file, edge_model, said):
    with pytest.raises(UserError) as caught:
        windows_for([Proposals(**trained)], file, edge_model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_files_the_detector_searches_by_itself():
    search = Proposals(mode="paper", max_side=500)
    assert windows_for([search]).settings == search


# ---------------------------------------------------------------- going on


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def interrupted(killed_at: int) -> Iterator[None]:
    """A detection that is stopped before it writes the image of that number."""
    write = DetectionWriter.add

    def add(self, found):
        if self.done == killed_at:
            raise KeyboardInterrupt
        write(self, found)

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(DetectionWriter, "add", add)
        yield
        pytest.fail("it was not stopped")


EVERYTHING = Output(("voc", "yolo", "csv", "devkit"), draw=True, score=-10.0)


@pytest.mark.parametrize("killed_at", [0, 3])
def test_an_interrupted_detection_goes_on_without_repeating_what_was_done(
    run_detector, run_paths, tmp_path, monkeypatch, killed_at
):
    (tmp_path / "text.jpg").write_text("not a photo")
    images = [run_paths[0], tmp_path / "text.jpg", *run_paths[1:]]
    whole = detect_to_folder(run_detector, images, tmp_path / "whole", EVERYTHING)
    with interrupted(killed_at):
        detect_to_folder(run_detector, images, tmp_path / "parts", EVERYTHING, workers=1)
    read = []
    monkeypatch.setattr("spp_det.inference.read_image", lambda path: read.append(path) or read_image(path))
    parts = detect_to_folder(run_detector, images, tmp_path / "parts", EVERYTHING, resume=True)
    assert sorted(read) == sorted(images[killed_at:])  # by several threads, in any order
    assert parts == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert detect_to_folder(run_detector, images, tmp_path / "parts", EVERYTHING, resume=True) == whole
    assert sorted(read) == sorted(images[killed_at:])  # by several threads, in any order


def test_several_processes_go_on_with_what_one_left_and_the_first_one_writes(
    run_detector, run_paths, tmp_path, in_ranks
):
    """All with the same rest, of which the first one alone knows: here each has a folder of its own."""
    whole = detect_to_folder(run_detector, run_paths, tmp_path / "whole", EVERYTHING)
    with interrupted(1):
        detect_to_folder(run_detector, run_paths, tmp_path / "0", EVERYTHING, workers=1)

    def work(rank: int) -> Summary:
        return detect_to_folder(
            run_detector,
            run_paths,
            tmp_path / str(rank),
            EVERYTHING,
            workers=1,
            resume=True,
        )

    assert in_ranks(3, work) == [whole, Summary(), Summary()]
    assert contents(tmp_path / "0") == contents(tmp_path / "whole")
    assert not (tmp_path / "1").exists()


def test_what_another_model_began_is_refused_in_one_line(run_folder, run_detector, run_paths, tmp_path):
    detect_to_folder(run_detector, run_paths[:1], tmp_path)
    other = Detector.load(run_folder / "run" / "model.safetensors")
    other.scorer.bias[0] += 1
    with pytest.raises(UserError, match=r"model was .* and is now ") as caught:
        detect_to_folder(other, run_paths[:1], tmp_path, resume=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="--classes was "):
        detect_to_folder(run_detector, run_paths[:1], tmp_path, resume=True, only=run_detector.classes[0])
    write_proposals(tmp_path / "a.json", {run_paths[0].stem: np.float32([(0, 0, 50, 50)])})
    source = windows_for(run_detector.searches, tmp_path / "a.json")
    with pytest.raises(UserError, match='windows was "its own" and is now "file '):
        detect_to_folder(run_detector, run_paths[:1], tmp_path, resume=True, source=source)


# ---------------------------------------------------------------- the command


def test_detection_writes_every_format_that_was_asked_for(detected, found):
    names = [f"test_{i:05d}" for i in range(3)]
    for kind, suffix in (("voc", "xml"), ("yolo", "txt"), ("pictures", "jpg")):
        assert sorted(path.name for path in (found / kind).glob("test_*")) == [
            f"{name}.{suffix}" for name in names
        ]
    assert names_of(found) == [f"{name}.jpg" for name in names]
    rows = rows_of(found)
    assert len(rows) > 10  # or the tests below say little
    assert len((found / "detections.csv").read_text().splitlines()) == len(rows) + 1
    for number, name in enumerate(names, 1):
        mine = sum(row["image_id"] == number for row in rows)
        assert len((found / "yolo" / f"{name}.txt").read_text().splitlines()) == mine
        assert len(read_annotation(found / "voc" / f"{name}.xml").boxes) == mine
        assert Image.open(found / "pictures" / f"{name}.jpg").size == (130, 110)
    assert f"found {len(rows)} detections in 3 images: {found}" in detected.err


def test_the_folder_holds_what_the_detector_finds(cli_folder, model, found):
    detector = Detector.load(model)
    rows = [row for row in rows_of(found) if row["image_id"] == 2]
    mine = on_one_core(partial(detector, cli_folder / "voc" / "JPEGImages" / "test_00001.jpg"))
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), mine["scores"])
    np.testing.assert_array_equal([row["category_id"] - 1 for row in rows], mine["labels"])
    np.testing.assert_array_equal(np.float32([row["bbox"][:2] for row in rows]), mine["boxes"][:, :2])


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_network_computes_at_the_precision_that_is_asked_for(
    cli_folder, model, split, tmp_path, precision
):
    options = ("--device", "cpu", "--precision", precision)
    assert spp_det("detect", model, split, "--out", tmp_path / "out", *options).code == 0
    rows = [row for row in rows_of(tmp_path / "out") if row["image_id"] == 2]
    photo = cli_folder / "voc" / "JPEGImages" / "test_00001.jpg"
    mine, other = (
        on_one_core(partial(Detector.load(model, precision=p), photo))["scores"]
        for p in (precision, {"float32": "bfloat16", "bfloat16": "float32"}[precision])
    )
    np.testing.assert_array_equal(np.float32([row["score"] for row in rows]), mine)
    assert not np.array_equal(mine, other)


def test_without_options_only_the_coco_files_and_the_journal_are_written(model, split, tmp_path):
    assert spp_det("detect", model, split, "--out", tmp_path / "out", "--device", "cpu").code == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("detections.json", "images.json", "detections.jsonl")
    }


def test_several_processes_take_no_list_from_standard_input(model, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_one_line(spp_det("detect", model, "-", "--out", tmp_path), "stdin", "file")


def test_images_of_standard_input_are_gone_on_with(cli_folder, model, split, tmp_path, monkeypatch):
    names = "".join(f"{cli_folder}/voc/JPEGImages/test_{i:05d}.jpg\n" for i in range(3))
    words = ("detect", model, "-", "--out", tmp_path / "out", "--device", "cpu", "--resume")
    words = (*words, "--save-crops", "--score", -9)
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(names.encode())))
        ended = spp_det(*words)
        assert ended.code == 0, ended.err
        assert "in 3 images" in ended.err
    assert any((tmp_path / "out" / "crops").rglob("*.jpg"))
    other = spp_det("detect", model, split, "--out", tmp_path / "out", "--resume", "--classes", CLASSES[0])
    assert_one_line(other, tmp_path / "out", "--classes", "--resume")


def test_score_leaves_out_exactly_what_scores_less(model, split, found, tmp_path):
    scores = sorted(row["score"] for row in rows_of(found))
    limit = scores[len(scores) // 2]
    ended = spp_det("detect", model, split, "--out", tmp_path, "--score", limit, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path) == [row for row in rows_of(found) if row["score"] >= limit]


def test_classes_leaves_out_exactly_the_others(model, split, found, tmp_path):
    wanted = sorted({row["category_id"] for row in rows_of(found)})[:2]
    names = ", ".join(Detector.load(model).classes[i - 1] for i in wanted)
    ended = spp_det("detect", model, split, "--out", tmp_path, "--classes", names, "--device", "cpu")
    assert ended.code == 0, ended.err
    kept = [row for row in rows_of(found) if row["category_id"] in wanted]
    assert rows_of(tmp_path) == kept
    assert 0 < len(kept) < len(rows_of(found))


def test_several_models_are_combined(model, split, found, tmp_path):
    """Leading arguments that are models; of a model and itself, what it finds alone."""
    copy = shutil.copy(model, tmp_path / "copy.safetensors")
    ended = spp_det("detect", model, copy, model, split, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path / "out") == rows_of(found)


def test_models_that_do_not_fit_together_or_have_nothing_to_look_at_are_an_error(model, split, tmp_path):
    strange = Detector.load(model)
    strange.classes = ("koala", *strange.classes[1:])
    strange.save(tmp_path / "strange.safetensors")
    ended = spp_det("detect", model, tmp_path / "strange.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "model 2", "same classes", "koala")
    ended = spp_det("detect", model, tmp_path / "strange.safetensors", "--out", tmp_path / "out")
    assert_one_line(ended, "which images")
    ended = spp_det("detect", model, tmp_path / "none.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "no such model", tmp_path / "none.safetensors")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def photos(cli_folder, tmp_path) -> Path:
    """A folder of two photos with a text file between them that calls itself a photo."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, name in enumerate(("a.jpg", "c.jpg")):
        shutil.copy(cli_folder / "voc" / "JPEGImages" / f"test_{index:05d}.jpg", photos / name)
    (photos / "b.jpg").write_text("not a photo")
    return photos


def test_an_unreadable_image_is_skipped_and_counted(model, photos, found, tmp_path):
    ended = spp_det("detect", model, photos, "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 0, ended.err
    assert f"skipped 1 files that could not be read, the first: {photos / 'b.jpg'}" in ended.err
    assert "in 2 images" in ended.err
    assert names_of(tmp_path / "out") == ["a.jpg", "c.jpg"]
    assert rows_of(tmp_path / "out") == [row for row in rows_of(found) if row["image_id"] <= 2]


def test_strict_makes_an_unreadable_image_an_error_and_leaves_no_list(model, photos, tmp_path):
    ended = spp_det("detect", model, photos, "--out", tmp_path / "out", "--device", "cpu", "--strict")
    assert_one_line(ended, photos / "b.jpg")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


def test_names_in_brackets_are_shown_as_they_are(model, split, tmp_path):
    """Brackets are markup to the library that prints."""
    out = tmp_path / "found[red]"
    ended = spp_det("detect", model, split, "--out", out, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert f"3 images: {out}" in ended.err


def test_a_missing_model_or_image_is_named(split, model, tmp_path):
    ended = spp_det("detect", tmp_path / "none.safetensors", split, "--out", tmp_path / "out")
    assert_one_line(ended, "no such model", tmp_path / "none.safetensors")
    ended = spp_det("detect", model, tmp_path / "none.jpg", "--out", tmp_path / "out")
    assert_one_line(ended, tmp_path / "none.jpg")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["half", "flipped", "text", "empty"])
def test_a_damaged_model_is_refused(model, split, tmp_path, damage):
    data = bytearray(model.read_bytes())
    flipped = data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]  # one bit of one weight
    broken = {"half": data[: len(data) // 2], "flipped": flipped, "text": b"hello there", "empty": b""}
    path = tmp_path / "model.safetensors"
    path.write_bytes(broken[damage])
    ended = spp_det("detect", path, split, "--out", tmp_path / "out", "--device", "cpu")
    assert_one_line(ended, path, "damaged")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "value", "parts"),
    [
        ("--classes", "koala", ("koala", "it knows")),
        ("--classes", "", ("no class ''",)),
        ("--format", "pdf", ("pdf", "coco, voc, yolo, csv")),
        ("--device", "abacus", ("abacus", "cpu")),
    ],
)
def test_an_option_that_means_nothing_is_named(model, split, tmp_path, option, value, parts):
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", option, value)
    assert_one_line(ended, *parts)
    assert not (tmp_path / "out").exists()


def test_a_precision_that_there_is_not_names_those_there_are(model, split, tmp_path):
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--precision", "half")
    assert_one_line(ended, "--precision", "half", "auto", "float32", "bfloat16", "detect --help")
    assert not (tmp_path / "out").exists()


def test_an_output_that_is_a_file_is_an_error(model, split, tmp_path):
    (tmp_path / "out").write_text("mine")
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--device", "cpu")
    assert_one_line(ended, tmp_path / "out", "exists")
    assert (tmp_path / "out").read_text() == "mine"


def test_detection_in_windows_that_were_written_finds_the_same(model, split, found, written, tmp_path):
    ended = spp_det("detect", model, split, "--out", tmp_path, "--proposals", written, "--device", "cpu")
    assert ended.code == 0, ended.err
    assert rows_of(tmp_path) == rows_of(found)


def test_detection_by_edge_boxes_wants_a_model_of_edges(model, split, tmp_path):
    (tmp_path / "model.yml").write_text("hello")
    ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--edge-model", tmp_path / "model.yml")
    assert_one_line(ended, tmp_path / "model.yml", "structured edges")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [["a.jpg"], ["a.jpg", "b.png", "c.mpo"]])
def test_a_detection_that_could_read_nothing_is_a_failure_and_names_the_first(model, tmp_path, names):
    (tmp_path / "photos").mkdir()
    for name in names:
        (tmp_path / "photos" / name).write_text("no photo")
    ended = spp_det("detect", model, tmp_path / "photos", "--out", tmp_path / "out", "--device", "cpu")
    assert ended.code == 2
    assert "error: no image could be read, the first was" in ended.err
    assert "a.jpg" in ended.err.splitlines()[-1]
    assert len(json.loads((tmp_path / "out" / "images.json").read_text())["skipped"]) == len(names)


def test_yolos_files_come_with_the_classes_and_without_scores_if_so_wanted(model, split, found, tmp_path):
    assert (found / "yolo" / "classes.txt").read_text().splitlines() == list(Detector.load(model).classes)
    names = yaml.safe_load((found / "yolo" / "data.yaml").read_text())["names"]
    assert names == list(Detector.load(model).classes)
    options = ("--format", "yolo", "--no-scores", "--device", "cpu")
    assert spp_det("detect", model, split, "--out", tmp_path, *options).code == 0
    for path in (found / "yolo").glob("test_*.txt"):
        scored = [line.split() for line in path.read_text().splitlines()]
        plain = [line.split() for line in (tmp_path / "yolo" / path.name).read_text().splitlines()]
        assert plain == [fields[:5] for fields in scored]


def test_a_photo_whose_labels_would_take_the_place_of_the_class_list_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"^a/classes\.jpg: its YOLO file would be classes\.txt, .*: rename the photo$"
    ):
        DetectionWriter(tmp_path, CLASSES, [Path("a/classes.jpg")], Output(formats=["yolo"]))


def test_a_device_that_is_not_there_is_no_damage_of_the_model(model, split, tmp_path):
    for device in ("mps", "meta", "cuda:99"):
        ended = spp_det("detect", model, split, "--out", tmp_path / "out", "--device", device)
        assert_one_line(ended, f"device '{device}': this machine has", "say auto, cpu, cuda or cuda:N")


# ---------------------------------------------------------------- what a score means


def with_curves(detector: Detector, known: bool = True) -> Detector:
    """The same detector with another curve for each class, or with none."""
    numbers = np.arange(1, len(detector.classes) + 1, dtype=np.float32)
    parts = (detector.features, detector.head, detector.scorer, detector.regressors, detector.settings)
    return Detector(detector.classes, *parts, Probabilities(numbers, -numbers / 2) if known else None)


def test_probabilities_are_in_every_file_and_the_threshold_is_one_of_them(run_detector, run_paths, tmp_path):
    detector = with_curves(run_detector)
    detect_to_folder(detector, run_paths, tmp_path / "margins")
    every = []
    for row in rows_of(tmp_path / "margins"):
        k = row["category_id"]
        every.append((row["image_id"], k, 1 / (1 + np.exp(-(k * row["score"] - k / 2)))))
    lowest = float(np.mean([p for _, _, p in every]))  # which lies between two of them
    expected = sorted(row for row in every if row[2] >= lowest)
    output = Output(["csv", "voc", "yolo", "devkit"], score=lowest)
    detect_to_folder(detector, run_paths, tmp_path / "p", output, score_kind="probability")
    found = [(row["image_id"], row["category_id"], row["score"]) for row in rows_of(tmp_path / "p")]
    assert 0 < len(found) < len(every)
    np.testing.assert_allclose(sorted(found), expected, atol=1e-6)
    for name in ("detections.csv", "voc", "yolo", "devkit"):
        folder = tmp_path / "p" / name
        results = read_detections(folder)
        assert sorted(row["score"] for row in results.results) == sorted(row[2] for row in found)


def test_a_model_without_probabilities_is_refused_before_anything_is_written(
    run_detector, run_paths, tmp_path
):
    bare = with_curves(run_detector, known=False)
    with pytest.raises(UserError, match="has no probabilities"):
        detect_to_folder(bare, run_paths, tmp_path / "out", score_kind="probability")
    both = Ensemble([with_curves(run_detector)] * 2)
    with pytest.raises(UserError, match="the combination has no probabilities"):
        detect_to_folder(both, run_paths, tmp_path / "out", score_kind="probability")
    assert not (tmp_path / "out").exists()


def test_a_run_of_margins_is_not_resumed_with_probabilities(run_detector, run_paths, tmp_path):
    detector = with_curves(run_detector)
    detect_to_folder(detector, run_paths, tmp_path / "out")
    with pytest.raises(CannotResumeError, match="--score-kind"):
        detect_to_folder(detector, run_paths, tmp_path / "out", score_kind="probability", resume=True)


def test_the_command_takes_the_kind_of_score(model, split, tmp_path):
    ended = spp_det(
        "detect", model, split, "--out", tmp_path / "p", "--score-kind", "probability", "--score", "0"
    )
    if ended.code:  # six photos may teach too little
        assert_one_line(ended, "has no probabilities")
    else:
        assert all(0 <= row["score"] <= 1 for row in rows_of(tmp_path / "p"))
    assert spp_det("detect", model, split, "--out", tmp_path / "q", "--score-kind", "odds").code == 2
