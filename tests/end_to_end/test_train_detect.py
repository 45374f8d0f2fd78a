"""From annotated photographs to a model file and its detections, by the calls that the command line makes.

No pre-trained weights: even a random network's conv5 tells red balls from blue boxes, on any photograph.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spp_det import Detector
from spp_det.boxes import as_boxes, intersection
from spp_det.config.file import parse_config
from spp_det.config.settings import Config
from spp_det.data.coco import coco_instances
from spp_det.data.records import Dataset, Record
from spp_det.data.synthetic import generate_voc
from spp_det.data.synthetic.background import background
from spp_det.data.voc import read_voc, write_voc
from spp_det.errors import UserError
from spp_det.evaluation.voc import evaluate_voc
from spp_det.training.stages import Trained, train

CLASSES = ("ball", "box")
COLOURS = np.array([[210, 30, 30], [30, 30, 210]])


def picture(rng: np.random.Generator, part: tuple[float, float]):
    """A part of a photograph with one to three red balls and blue boxes on it, none touching another."""
    width, height = [(170, 130), (130, 170)][rng.integers(2)]
    image = (background(rng, width, height, part) * 255).astype(np.uint8)
    y, x = np.mgrid[:height, :width] + 0.5
    boxes: list[tuple[int, ...]] = []
    labels: list[int] = []
    for _ in range(rng.integers(1, 4)):
        for _ in range(20):
            w, h = rng.integers(24, 70, 2)
            x1, y1 = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            box = (x1, y1, x1 + int(w), y1 + int(h))
            around = as_boxes([np.add(box, (-4, -4, 4, 4))])
            if not intersection(around, as_boxes(boxes)).any():
                break
        else:
            continue
        label = int(rng.integers(2))
        across, down = abs(x - (box[0] + box[2]) / 2) / (w / 2), abs(y - (box[1] + box[3]) / 2) / (h / 2)
        inside = across**2 + down**2 <= 1 if label == 0 else np.maximum(across, down) <= 1
        image[inside] = COLOURS[label] + rng.integers(-30, 31, 3)
        boxes.append(box)
        labels.append(label)
    return image, as_boxes(boxes), np.array(labels, np.int64)


def write_split(root: Path, split: str, count: int, part: tuple[float, float]) -> None:
    rng, records = np.random.default_rng([2, len(split)]), []
    for index in range(count):
        image, boxes, labels = picture(rng, part)
        path = root / "JPEGImages" / f"{split}{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path, quality=92)
        none = np.zeros(len(labels), np.bool_)
        records.append(Record(path.stem, path, boxes, labels, none, none, image.shape[1::-1]))
    write_voc(Dataset(CLASSES, records), root, split)


def configure(root: Path, output: Path, **sections: dict[str, object]) -> Config:
    tree: dict[str, object] = {
        "output": str(output),
        "data": {"root": str(root)},
        "backbone": {"name": "zf5_small", "weights": "random", "scales": [160]},
        "runtime": {"device": "cpu"},
    }
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_config(tree, "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds the data set and what the trainings leave."""
    folder = tmp_path_factory.mktemp("end_to_end")
    write_split(folder / "voc", "trainval", 24, (0.0, 0.55))
    write_split(folder / "voc", "test", 12, (0.55, 1.0))
    return folder


@pytest.fixture(scope="module")
def trained(folder) -> Trained:
    return train(configure(folder / "voc", folder / "one"))


@pytest.fixture(scope="module")
def model(folder, trained) -> Path:
    path = folder / "one" / "model.safetensors"
    trained.detector.save(path)
    return path


@pytest.fixture(scope="module")
def test_set(folder) -> Dataset:
    return read_voc(folder / "voc", "test", CLASSES)


@pytest.fixture(scope="module")
def detections(model, test_set):
    """Of the model as it was loaded from its file."""
    return Detector.load(model)([record.path for record in test_set.records])


def by_chance(dataset, detections) -> float:
    """The mean mAP of twenty shuffles of each image's scores; boxes and labels stay: what chance reaches."""
    rng = np.random.default_rng(0)
    orders = [[d | {"scores": rng.permutation(d["scores"])} for d in detections] for _ in range(20)]
    return float(np.mean([evaluate_voc(dataset, order).mAP_area for order in orders]))


def test_objects_in_new_photographs_are_found(detections, test_set):
    """Measured over six seeds: mAP .72 to .87, at IoU 0.7 still .50 to .72; scores in random order: .06."""
    result = evaluate_voc(test_set, detections)
    assert result.mAP_area > 0.6
    assert evaluate_voc(test_set, detections, iou_threshold=0.7).mAP_area > 0.4
    assert by_chance(test_set, detections) < 0.2


def test_a_shifted_box_convention_would_be_noticed(detections, test_set):
    """The figure above must fall where boxes are off by a cell, or the test of it proves little."""
    shifted = [found | {"boxes": found["boxes"] + 16} for found in detections]
    assert evaluate_voc(test_set, shifted).mAP_area < 0.3


def test_the_loaded_model_detects_what_the_one_in_memory_detects(trained, model, test_set):
    paths = [record.path for record in test_set.records[:4]]
    for mine, found in zip(trained.detector(paths), Detector.load(model)(paths), strict=True):
        assert len(found["scores"]) > 0
        for key in ("boxes", "labels", "scores"):
            assert np.array_equal(mine[key], found[key])


def test_the_same_seed_gives_the_same_file_to_the_byte(folder, model):
    """From an empty cache, with another number of workers, under another path."""
    again = train(configure(folder / "voc", folder / "two", runtime={"workers": 1}))
    again.detector.save(folder / "two" / "again.safetensors")
    assert (folder / "two" / "again.safetensors").read_bytes() == model.read_bytes()


def test_a_full_cache_and_another_annotation_format_give_the_same_file(folder, model):
    coco = folder / "instances.json"
    coco.write_text(json.dumps(coco_instances(read_voc(folder / "voc", "trainval", CLASSES))))
    data = {"format": "coco", "root": str(folder / "voc" / "JPEGImages"), "train": str(coco)}
    config = configure(
        folder / "voc", folder / "three", data=data, runtime={"cache": str(folder / "one" / "cache")}
    )
    train(config).detector.save(folder / "three.safetensors")
    assert (folder / "three.safetensors").read_bytes() == model.read_bytes()
    assert not (folder / "three").exists()  # nothing is written beside the cache


def test_the_figures_of_a_training_can_be_written_down(trained):
    figures = json.loads(json.dumps(trained.metrics))
    assert figures["images"] == 24
    assert figures["skipped"] == []
    assert figures["svm"]["duality_gap"] <= 1e-4
    assert set(figures["svm"]["negatives"]) == set(CLASSES)


def test_without_box_regression_the_scores_are_the_same(folder, trained, test_set):
    cache = {"cache": str(folder / "one" / "cache")}
    plain = train(configure(folder / "voc", folder / "four", runtime=cache, bbox={"enabled": False}))
    assert plain.detector.regressors == ()
    found, refined = (detector(test_set.records[0].path) for detector in (plain.detector, trained.detector))
    assert np.array_equal(found["scores"], refined["scores"])
    assert not np.array_equal(found["boxes"], refined["boxes"])


@pytest.fixture(scope="module")
def blemished(folder, tmp_path_factory) -> Path:
    """The data set with a truncated photograph, an empty file, and two images without objects."""
    root = tmp_path_factory.mktemp("blemished")
    dataset = read_voc(folder / "voc", "trainval", CLASSES)
    records = list(dataset.records)
    (root / "JPEGImages").mkdir()
    for index, record in enumerate(records):
        data = record.path.read_bytes()
        if index == 0:
            data = data[: len(data) * 2 // 3]
        if index == 1:
            data = b""
        (root / "JPEGImages" / record.path.name).write_bytes(data)
        if index in (2, 3):
            nothing = {name: getattr(record, name)[:0] for name in ("boxes", "labels", "difficult", "crowd")}
            records[index] = replace(record, **nothing)
    write_voc(Dataset(CLASSES, records), root, "trainval")
    return root


def test_a_blemished_data_set_trains_a_detector_too(folder, blemished, test_set, caplog):
    cache = {"cache": str(folder / "one" / "cache")}
    config = configure(blemished, folder / "five", runtime=cache)
    with caplog.at_level(logging.WARNING):
        trained = train(config)
    assert trained.metrics["images"] == 23
    (skipped,) = trained.metrics["skipped"]
    assert Path(skipped["file"]).name == "trainval1.jpg"
    assert skipped["reason"]
    text = [record.getMessage() for record in caplog.records]
    assert sum("trainval0.jpg" in line for line in text) == 1  # truncated, and used
    assert sum("trainval1.jpg" in line for line in text) == 1
    found = [trained.detector(record.path) for record in test_set.records]
    assert evaluate_voc(test_set, found).mAP_area > 0.5


def test_strict_stops_at_the_first_unreadable_image(folder, blemished):
    cache = {"cache": str(folder / "one" / "cache")}
    with pytest.raises(UserError, match=r"trainval1\.jpg"):
        train(configure(blemished, folder / "six", runtime=cache, strict=True))


def test_a_class_without_an_object_is_named(folder):
    cache = {"cache": str(folder / "one" / "cache")}
    config = configure(folder / "voc", folder / "seven", runtime=cache, data={"classes": [*CLASSES, "koala"]})
    with pytest.raises(UserError, match="koala"):
        train(config)


def test_generated_scenes_that_were_trained_on_are_told_apart(tmp_path):
    """Six shapes in clutter, too hard for random features to generalise; but what a linear SVM on pool5
    has seen it finds again, or windows, vectors and labels are out of step. Measured: mAP .75."""
    generate_voc(tmp_path / "voc", {"trainval": 10}, seed=1, sizes=((160, 130), (130, 160)))
    trained = train(configure(tmp_path / "voc", tmp_path / "run"))
    dataset = read_voc(tmp_path / "voc", "trainval", trained.detector.classes)
    found = trained.detector([record.path for record in dataset.records])
    assert evaluate_voc(dataset, found).mAP_area > 0.5
    assert by_chance(dataset, found) < 0.2


def test_the_rcnn_baseline_trains_and_detects_by_the_same_calls(tmp_path):
    write_split(tmp_path / "voc", "trainval", 6, (0.0, 1.0))
    config = configure(tmp_path / "voc", tmp_path, features="rcnn", proposals={"max_side": 60})
    detector = train(config).detector
    assert detector.settings.features == "rcnn"
    detector.save(tmp_path / "model.safetensors")
    dataset = read_voc(tmp_path / "voc", "trainval", CLASSES)
    found = Detector.load(tmp_path / "model.safetensors")([record.path for record in dataset.records])
    # On what it was trained on: that the parts fit together, not how good it is.
    assert evaluate_voc(dataset, found).mAP_area > 0.5
    assert by_chance(dataset, found) < 0.4


@pytest.mark.parametrize(
    "fc",
    [{"layer": "fc6"}, {"layer": "fc7"}, {"layer": "fc7", "rank": [24, 16]}],
    ids=["fc6", "fc7", "compressed"],
)
def test_fc_layers_train_and_detect_by_the_same_calls(folder, test_set, trained, fc):
    """Random ones, on photographs that they were not trained on. Measured: mAP .30 to .44; in random order
    .05."""
    section = {"weights": "random", "width": 64, **fc}
    files = []
    for workers in (2, 1):
        runtime = {"cache": str(folder / "one" / "cache"), "workers": workers}
        detector = train(configure(folder / "voc", folder / "fc", fc=section, runtime=runtime)).detector
        files.append(folder / f"fc{workers}.safetensors")
        detector.save(files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()
    loaded = Detector.load(files[0])
    assert loaded.settings.fc == detector.settings.fc
    assert list(loaded.head.layers) == ["fc6", "fc7"][: 1 + (fc["layer"] == "fc7")]
    assert any("0.weight" in name for name in loaded.head.layers.state_dict()) == ("rank" in fc)
    assert loaded.scorer.weight.shape == (2, 64)
    # The regressor sees pool5 all the same, and draws the same examples.
    assert torch.equal(loaded.regressors[0].weight, trained.detector.regressors[0].weight)
    found = loaded([record.path for record in test_set.records])
    for record, one in list(zip(test_set.records, found, strict=True))[:3]:
        mine = detector(record.path)
        assert len(one["scores"]) > 0
        assert all(np.array_equal(one[key], mine[key]) for key in ("boxes", "labels", "scores"))
    assert evaluate_voc(test_set, found).mAP_area > 0.2
    assert by_chance(test_set, found) < 0.15


FINETUNE = {
    **{"enabled": True, "learning_rate": 3e-3, "dropout": 0.2, "steps": 150, "last_steps": 50, "batch": 64},
    **{"held_out": 0.2, "log_every": 50},
}


@pytest.fixture(scope="module")
def finetuned(folder) -> Trained:
    return train(finetuning(folder, "softmax"))


def finetuning(folder: Path, scorer: str, **finetune: object) -> Config:
    return configure(
        folder / "voc",
        folder / "finetuned",
        fc={"layer": "fc7", "weights": "random", "width": 64},
        finetune=FINETUNE | finetune,
        scorer=scorer,
        runtime={"cache": str(folder / "one" / "cache")},
    )


def test_fine_tuning_learns_what_it_was_not_shown(finetuned):
    """Measured over two seeds: accuracy .85 and .89 on held-out windows, .55 and .64 on positives."""
    figures = json.loads(json.dumps(finetuned.metrics))
    assert "svm" not in figures
    assert figures["finetune"]["held_out_images"] == 4
    log = figures["finetune"]["log"]
    assert [row["step"] for row in log] == [0, 50, 100, 150, 200]
    assert log[-1]["loss"] < log[1]["loss"] < log[0]["held_out_loss"]
    assert log[-1]["held_out_loss"] < 0.6 * log[0]["held_out_loss"]
    assert log[-1]["held_out_accuracy"] > 0.8  # always to say background is right for .75
    assert log[-1]["held_out_object_accuracy"] > 0.4


def test_a_softmax_detector_is_saved_loaded_and_detects(folder, finetuned, trained, test_set):
    """Measured: mAP .46 and .50 over two seeds, .20 in one random order.

    On a processor with AMX it is .47, and .27 in the mean of twenty orders.
    """
    finetuned.detector.save(folder / "softmax.safetensors")
    loaded = Detector.load(folder / "softmax.safetensors")
    assert loaded.settings.scorer == "softmax"
    assert loaded.scorer.weight.shape == (3, 64)
    assert torch.equal(
        loaded.regressors[0].weight, trained.detector.regressors[0].weight
    )  # it sees pool5 all the same
    found = loaded([record.path for record in test_set.records])
    for record, one in list(zip(test_set.records, found, strict=True))[:3]:
        mine = finetuned.detector(record.path)
        assert len(one["scores"]) > 0
        assert all(np.array_equal(one[key], mine[key]) for key in ("boxes", "labels", "scores"))
    result = evaluate_voc(test_set, found)
    assert result.mAP_area > 0.35
    assert by_chance(test_set, found) < result.mAP_area - 0.1


def test_svms_on_fine_tuned_layers_use_the_fine_tuning_that_was_done(
    folder, finetuned, test_set, monkeypatch
):
    """Measured: mAP .48."""

    def forbidden(*_: object) -> None:
        raise AssertionError("the fine-tuning should have come from the cache")

    monkeypatch.setattr("spp_det.training.finetune._Training.step", forbidden)
    again = train(finetuning(folder, "svm"))
    assert again.metrics["finetune"] == finetuned.metrics["finetune"]
    for name, tensor in finetuned.detector.head.layers.state_dict().items():
        assert torch.equal(again.detector.head.layers.state_dict()[name], tensor)
    found = again.detector([record.path for record in test_set.records])
    assert evaluate_voc(test_set, found).mAP_area > 0.3


def test_fine_tuned_layers_can_be_compressed(folder, finetuned):
    config = finetuning(folder, "softmax")
    fc = config.fc.model_copy(update={"rank": (24, 16)})
    detector = train(config.model_copy(update={"fc": fc})).detector
    assert any("0.weight" in name for name in detector.head.layers.state_dict())
    assert torch.equal(detector.scorer.weight, finetuned.detector.scorer.weight)


def test_the_precision_of_the_training_is_that_of_its_detector(tmp_path):
    write_split(tmp_path / "voc", "trainval", 4, (0.0, 1.0))
    written = []
    for precision in ("float32", "bfloat16"):
        runtime = {"precision": precision, "cache": str(tmp_path / "cache")}
        fc = {"layer": "fc6", "weights": "random", "width": 16}
        detector = train(configure(tmp_path / "voc", tmp_path, runtime=runtime, fc=fc)).detector
        assert detector.features.backbone.precision == getattr(torch, precision)
        assert detector.head.precision == getattr(torch, precision)
        detector.save(tmp_path / precision)
        written.append((tmp_path / precision).read_bytes())
    assert written[0] != written[1]  # they have learnt from other maps, though the cache is the same
