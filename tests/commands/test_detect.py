"""Detection in files: what its folder holds, and that nothing is begun on a wrong request."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from spp_det.commands.detect import Summary, detect_to_folder, windows_for
from spp_det.config.settings import Proposals
from spp_det.detections.writer import DetectionWriter
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.model.detector import Detector
from spp_det.proposals.files import write_proposals


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
        detect_to_folder(run_detector, run_paths, tmp_path / str(workers), workers=workers, formats=["csv"])
    for name in ("detections.json", "images.json", "detections.csv"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "3" / name).read_bytes()


def test_strict_raises_and_leaves_no_list(run_detector, run_paths, tmp_path):
    (tmp_path / "text.jpg").write_text("not a photo")
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        detect_to_folder(run_detector, [run_paths[0], tmp_path / "text.jpg"], tmp_path / "out", strict=True)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.jsonl"]


@pytest.mark.parametrize("options", [{"only": "koala"}, {"only": ","}, {"formats": ["pdf"]}])
def test_a_wrong_request_makes_no_folder(run_detector, run_paths, tmp_path, options):
    with pytest.raises(UserError):
        detect_to_folder(run_detector, run_paths, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- windows from elsewhere


def test_a_file_that_lacks_an_image_makes_no_folder(run_detector, run_paths, tmp_path):
    write_proposals(tmp_path / "a.json", {})
    source = windows_for(run_detector.settings.proposals, tmp_path / "a.json", None)
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
        windows_for(Proposals(**trained), file, edge_model)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_files_the_detector_searches_by_itself():
    assert windows_for(Proposals(mode="paper", max_side=500), None, None) is None


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


OPTIONS = {"formats": ("voc", "yolo", "csv", "devkit"), "draw": True, "score": -10.0}


@pytest.mark.parametrize("killed_at", [0, 3])
def test_an_interrupted_detection_goes_on_without_repeating_what_was_done(
    run_detector, run_paths, tmp_path, monkeypatch, killed_at
):
    (tmp_path / "text.jpg").write_text("not a photo")
    images = [run_paths[0], tmp_path / "text.jpg", *run_paths[1:]]
    whole = detect_to_folder(run_detector, images, tmp_path / "whole", **OPTIONS)
    with interrupted(killed_at):
        detect_to_folder(run_detector, images, tmp_path / "parts", workers=1, **OPTIONS)
    read = []
    monkeypatch.setattr("spp_det.inference.read_image", lambda path: read.append(path) or read_image(path))
    parts = detect_to_folder(run_detector, images, tmp_path / "parts", resume=True, **OPTIONS)
    assert read == images[killed_at:]
    assert parts == whole
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert detect_to_folder(run_detector, images, tmp_path / "parts", resume=True, **OPTIONS) == whole
    assert read == images[killed_at:]


def test_several_processes_go_on_with_what_one_left_and_the_first_one_writes(
    run_detector, run_paths, tmp_path, in_ranks
):
    """All with the same rest, of which the first one alone knows: here each has a folder of its own."""
    whole = detect_to_folder(run_detector, run_paths, tmp_path / "whole", **OPTIONS)
    with interrupted(1):
        detect_to_folder(run_detector, run_paths, tmp_path / "0", workers=1, **OPTIONS)

    def work(rank: int) -> Summary:
        return detect_to_folder(
            run_detector, run_paths, tmp_path / str(rank), workers=1, resume=True, **OPTIONS
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
    source = windows_for(run_detector.settings.proposals, tmp_path / "a.json", None)
    with pytest.raises(UserError, match='windows was "its own" and is now "file '):
        detect_to_folder(run_detector, run_paths[:1], tmp_path, resume=True, source=source)
