"""The windows of a data set: what is written, what is held against the objects, and wrong requests."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from spp_det.boxes import as_boxes, iou
from spp_det.commands.proposals import chosen, propose, recall_figures, write_windows
from spp_det.config.settings import Proposals
from spp_det.data.records import Dataset
from spp_det.data.synthetic import generate_voc
from spp_det.data.voc import read_voc
from spp_det.errors import UserError
from spp_det.images import UnreadableImageError, read_image
from spp_det.proposals import selective_search
from spp_det.proposals.files import read_proposals, write_proposals
from spp_det.runtime.cache import Cache
from tests.command_line import assert_one_line, spp_det


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    root = tmp_path_factory.mktemp("proposing") / "voc"
    generate_voc(root, {"test": 4}, seed=2, sizes=((130, 100), (100, 120)))
    return read_voc(root, "test")


@pytest.fixture
def blemished(dataset, tmp_path) -> Dataset:
    """The same with a text in the place of its second photo."""
    path = tmp_path / "text.jpg"
    path.write_text("not a photo")
    records = list(dataset.records)
    records[1] = replace(records[1], path=path)
    return replace(dataset, records=records)


# ---------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_what_is_written_is_what_the_search_finds_and_what_mode_file_reads(dataset, tmp_path, suffix):
    out = tmp_path / f"windows{suffix}"
    done = write_windows(dataset, Proposals(max_side=100), out)
    assert list(read_proposals(out)) == [record.image_id for record in dataset.records]
    again = propose(dataset, Proposals(mode="file", file=out))
    for record, written, read in zip(dataset.records, done.windows, again.windows, strict=True):
        assert np.array_equal(written, selective_search(read_image(record.path), max_side=100))
        assert np.array_equal(written, read)
        assert len(written) > 10


def test_a_file_lacks_the_images_that_could_not_be_read(blemished, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        done = write_windows(blemished, Proposals(), tmp_path / "a.npz", Cache(tmp_path / "cache"))
    ids = [record.image_id for record in blemished.records]
    assert [Path(one["file"]).name for one in done.skipped] == ["text.jpg"]
    assert list(read_proposals(tmp_path / "a.npz")) == [ids[0], *ids[2:]]
    assert "text.jpg" in caplog.text
    with pytest.raises(UnreadableImageError, match=r"text\.jpg"):
        write_windows(blemished, Proposals(), tmp_path / "b.npz", Cache(tmp_path / "cache"), strict=True)
    assert not (tmp_path / "b.npz").exists()


def test_no_search_begins_for_a_file_that_could_not_be_written(dataset, tmp_path):
    cache = Cache(tmp_path / "cache")
    with pytest.raises(UserError, match=r"\.npz or \.json"):
        write_windows(dataset, Proposals(), tmp_path / "a.mat", cache)
    assert not cache.folder.exists()


# ---------------------------------------------------------------- recall


def test_recall_by_hand(dataset, tmp_path):
    """Of windows that are the objects of every class but the first, beside one nowhere."""
    windows = {
        record.image_id: as_boxes([[0, 0, 1, 1], *record.boxes[record.labels > 0].tolist()])
        for record in dataset.records
    }
    write_proposals(tmp_path / "a.npz", windows)
    figures = recall_figures(dataset, [Proposals(mode="file", file=tmp_path / "a.npz")])
    whole = figures["modes"]["file"]
    labels = np.concatenate([record.labels for record in dataset.records])
    assert figures["images"] == 4
    assert figures["skipped"] == []
    assert whole["objects"] == len(labels)
    assert whole["windows"] == pytest.approx(np.mean([len(boxes) for boxes in windows.values()]))
    first, *others = dataset.classes
    assert all(whole["per_class"][name]["recall"] == {"0.5": 1.0, "0.7": 1.0} for name in others)
    assert whole["per_class"][first]["objects"] == np.count_nonzero(labels == 0)
    assert whole["seconds"] > 0
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_recall_of_selective_search(dataset, tmp_path):
    cache = Cache(tmp_path / "cache")
    searches = [Proposals(mode="fast"), Proposals(mode="paper")]
    figures = recall_figures(dataset, searches, cache)
    assert list(figures["modes"]) == ["fast", "paper"]
    best = np.concatenate(
        [
            iou(record.boxes, selective_search(read_image(record.path))).max(axis=1)
            for record in dataset.records
        ]
    )
    fast = figures["modes"]["fast"]
    assert fast["recall"] == {
        "0.5": pytest.approx((best >= 0.5).mean()),
        "0.7": pytest.approx((best >= 0.7).mean()),
    }
    assert fast["ABO"] == pytest.approx(best.mean(), abs=1e-6)
    again = recall_figures(dataset, searches, cache)
    assert again["modes"]["fast"].pop("seconds") is None  # nobody searched
    assert fast.pop("seconds") > 0
    assert again["modes"]["fast"] == fast


def test_difficult_objects_and_unreadable_images_do_not_count(blemished):
    records = [replace(record, difficult=np.ones(len(record), np.bool_)) for record in blemished.records[:2]]
    records += blemished.records[2:]
    figures = recall_figures(replace(blemished, records=records), [Proposals()])
    assert figures["images"] == 3
    assert [one["file"] for one in figures["skipped"]] == [str(records[1].path)]
    assert figures["modes"]["fast"]["objects"] == sum(len(record) for record in records[2:])


def test_nothing_to_count_is_none(blemished):
    figures = recall_figures(replace(blemished, records=blemished.records[1:2], coco_ids=()), [Proposals()])
    whole = figures["modes"]["fast"]
    assert (whole["objects"], whole["ABO"], whole["MABO"], whole["windows"], whole["seconds"]) == (
        0,
        *[None] * 4,
    )
    assert whole["recall"] == {"0.5": None, "0.7": None}


def test_the_number_of_workers_changes_nothing(dataset):
    one, three = (propose(dataset, Proposals(), workers=workers).windows for workers in (1, 3))
    assert all(np.array_equal(a, b) for a, b in zip(one, three, strict=True))


# ---------------------------------------------------------------- requests


def test_modes_are_taken_from_what_is_given():
    file, model = Path("a.npz"), Path("a.yml")
    assert chosen([], None, None, None) == [Proposals()]
    assert chosen(["paper", "fast", "paper"], 500, None, None) == [
        Proposals(mode=mode, max_side=500) for mode in ("paper", "fast")
    ]
    assert chosen([], None, file, None) == [Proposals(mode="file", file=file)]
    assert chosen([], None, None, model) == [Proposals(mode="edgeboxes", edge_model=model)]
    assert [search.mode for search in chosen(["fast", "edgeboxes", "file"], None, file, model)] == [
        *("fast", "edgeboxes", "file")
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((["slow"], None, None, None), "'fast', 'paper', 'quality', 'edgeboxes' or 'file'"),
        (([], 8, None, None), "proposals.max_side = 8"),
        ((["file"], None, None, None), "--mode file and --proposals FILE"),
        ((["fast"], None, Path("a.npz"), None), "--mode file and --proposals FILE"),
        ((["fast", "edgeboxes"], None, None, None), "--mode edgeboxes and --edge-model FILE"),
        ((["fast"], None, None, Path("a.yml")), "--mode edgeboxes and --edge-model FILE"),
        (([], None, Path("a.txt"), None), ".mat, .npz, .json"),
    ],
)
def test_a_wordsthat_makes_no_sense_is_refused(words, said):
    with pytest.raises(UserError) as caught:
        chosen(*words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- the command


def test_recall_is_printed_and_written(cli_folder, model, tmp_path):
    assert model.exists()  # so the training's cache holds the windows of fast
    ended = spp_det(
        *("proposals", "--voc", cli_folder / "voc", "--split", "trainval", "--recall"),
        *("--mode", "fast", "--mode", "paper", "--cache", cli_folder / "run" / "cache"),
        *("--out", tmp_path / "recall.json"),
    )
    assert ended.code == 0, ended.err
    modes = json.loads((tmp_path / "recall.json").read_text())["modes"]
    assert list(modes) == ["fast", "paper"]
    assert modes["fast"]["seconds"] is None
    assert modes["paper"]["seconds"] > 0
    assert f"{100 * modes['fast']['recall']['0.5']:.1f}" in ended.out
    assert "Recall of proposals, 6 images" in ended.out


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ((), ("--out FILE.npz",)),
        (("--out", "a.mat"), ("a.mat", ".npz or .json")),
        (("--mode", "fast", "--mode", "paper", "--out", "a.npz"), ("one --mode",)),
        (("--recall", "--mode", "slow"), ("proposals.mode", "slow", "paper")),
        (("--recall", "--mode", "file"), ("--proposals FILE",)),
        (("--recall", "--max-side", "8"), ("proposals.max_side = 8",)),
        (("--recall", "--out", "a.npz"), ("a.npz", ".json")),
        (("--split", "nosuch", "--recall"), ("nosuch.txt",)),
        (("--recall", "--proposals", "none.mat"), ("none.mat", "no such file")),
    ],
)
def test_a_wrong_request_for_proposals_is_one_line(cli_folder, words, parts):
    assert_one_line(spp_det("proposals", "--voc", cli_folder / "voc", *words), *parts)
