"""From files of detections to the figures."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest

from spp_det.data.coco import coco_instances, read_coco
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.evaluation.coco import FIGURES, evaluate_coco
from spp_det.evaluation.errors import Kind
from spp_det.evaluation.results import evaluate as evaluation_of
from spp_det.evaluation.results import evaluate_files, read_results
from spp_det.evaluation.undefined import as_json
from spp_det.evaluation.voc import evaluate_voc

CLASSES = ("kangaroo", "raccoon")


def record(name, boxes, labels, difficult=None):
    flags = np.zeros(len(boxes), np.bool_) if difficult is None else np.array(difficult, np.bool_)
    return Record(
        image_id=name,
        path=Path("/data/JPEGImages") / f"{name}.jpg",
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.array(labels, np.int64),
        difficult=flags,
        crowd=np.zeros_like(flags),
        size=(640, 480),
    )


def zoo():
    """Three images in VOC's manner: two kangaroos, one difficult; nothing; one raccoon."""
    return Dataset(
        CLASSES,
        [
            record("p1", [(10, 10, 110, 60), (200, 10, 250, 60)], [0, 0], [False, True]),
            record("p2", [], []),
            record("p3", [(0, 0, 100, 100)], [1]),
        ],
    )


def listing():
    """Ids that have nothing to do with the data set's, and an image and a class that it lacks."""
    return {
        "images": [
            {"id": 70, "file_name": "test/p3.jpg", "width": 640, "height": 480},
            {"id": 50, "file_name": "test/p1.jpg", "width": 640, "height": 480},
            {"id": 60, "file_name": "test/p2.jpg", "width": 640, "height": 480},
            {"id": 80, "file_name": "test/other.jpg", "width": 640, "height": 480},
        ],
        "categories": [
            {"id": 1, "name": "raccoon"},
            {"id": 2, "name": "kangaroo"},
            {"id": 3, "name": "wombat"},
        ],
    }


def evaluate(*arguments, **options):
    """The figures alone."""
    return evaluation_of(*arguments, **options).figures()


def entry(image_id, category_id, bbox, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "score": score}


def results():
    return [
        entry(70, 1, [0, 0, 100, 90], 0.9),
        entry(50, 2, [10, 10, 100, 50], 0.8),
        entry(50, 2, [200.5, 10, 50, 50], 0.7),
        entry(60, 1, [5, 5, 20, 20], 0.6),
    ]


def write(folder, detections, images=None):
    path = folder / "detections.json"
    path.write_text(json.dumps(detections))
    if images is not None:
        (folder / "images.json").write_text(json.dumps(images))
    return path


def test_ids_are_translated_by_name(tmp_path):
    aligned = read_results(write(tmp_path, results(), listing()), zoo())
    first, second, third = aligned.detections
    np.testing.assert_array_equal(first["boxes"], np.float32([(10, 10, 110, 60), (200.5, 10, 250.5, 60)]))
    np.testing.assert_array_equal(first["labels"], [0, 0])
    np.testing.assert_array_equal(first["scores"], [0.8, 0.7])
    np.testing.assert_array_equal(second["labels"], [1])
    np.testing.assert_array_equal(third["boxes"], np.float32([(0, 0, 100, 90)]))
    assert [(d["boxes"].dtype, d["labels"].dtype) for d in aligned.detections] == [("f4", "i8")] * 3
    assert aligned.coco == [
        entry(3, 2, [0, 0, 100, 90], 0.9),
        entry(1, 1, [10, 10, 100, 50], 0.8),
        entry(1, 1, [200.5, 10, 50, 50], 0.7),
        entry(2, 2, [5, 5, 20, 20], 0.6),
    ]
    assert (aligned.outside, aligned.unknown) == (0, {})


def test_without_a_listing_ids_are_the_data_sets_own(tmp_path):
    path = write(tmp_path, [entry(3, 2, [0, 0, 100, 90], 0.9), entry(4, 2, [0, 0, 5, 5], 0.9)])
    aligned = read_results(path, zoo())
    assert [len(d["scores"]) for d in aligned.detections] == [0, 0, 1]
    assert aligned.outside == 1


def test_scores_keep_every_digit(tmp_path):
    score = 0.1 + 1e-15
    aligned = read_results(write(tmp_path, [entry(1, 1, [0, 0, 5, 5], score)]), zoo())
    assert aligned.detections[0]["scores"][0] == aligned.coco[0]["score"] == score


def test_other_images_are_left_out_and_counted_in_one_warning(tmp_path, caplog):
    more = [*results(), entry(80, 1, [0, 0, 5, 5], 0.9)]
    aligned = read_results(write(tmp_path, more, listing()), zoo())
    assert aligned.outside == 1
    assert len(aligned.coco) == 4
    (warning,) = caplog.messages
    assert "1 of 5 detections are on images that the data set does not have" in warning
    assert warning.endswith("the first has image_id 80")


def test_other_classes_are_left_out_with_a_warning(tmp_path, caplog):
    more = [*results(), entry(50, 3, [0, 0, 5, 5], 0.9), entry(50, 3, [0, 0, 5, 5], 0.8)]
    with caplog.at_level(logging.WARNING):
        aligned = read_results(write(tmp_path, more, listing()), zoo())
    assert aligned.unknown == {"wombat": 2}
    assert "wombat (2)" in caplog.text
    assert len(aligned.coco) == 4


def test_images_that_were_not_looked_at_are_warned_of(tmp_path, caplog):
    fewer = listing()
    fewer["images"] = fewer["images"][1:]
    with caplog.at_level(logging.WARNING):
        aligned = read_results(write(tmp_path, results()[1:], fewer), zoo())
    assert "1 of 3 images" in caplog.text
    assert "the first is p3" in caplog.text
    assert len(aligned.detections[2]["scores"]) == 0


def test_no_detections(tmp_path):
    aligned = read_results(write(tmp_path, [], listing()), zoo())
    assert [d["boxes"].shape for d in aligned.detections] == [(0, 4)] * 3
    figures = evaluate(zoo(), aligned)
    assert figures["voc"]["mAP_area"] == figures["coco"]["AP"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d, _: d[2].update(score=float("nan")),
            r"detections\.json\[2\]: score must be a finite number",
        ),
        (lambda d, _: d[1].pop("bbox"), r"detections\.json\[1\]: bbox must be four finite numbers"),
        (
            lambda d, _: d[1].update(image_id=99),
            r"detections\.json\[1\]: image_id 99 is not in .*images\.json",
        ),
        (
            lambda d, _: d[1].update(category_id=9),
            r"detections\.json\[1\]: category_id 9 is not in .*images\.json",
        ),
        (lambda _, i: i["images"][2].pop("file_name"), r"images\.json: images\[2\]: has no file_name"),
        (lambda _, i: i["images"][2].update(id=70), r"images\.json: images: the id 70 occurs more than once"),
        (
            lambda _, i: i["images"][2].update(file_name="x/p3.jpg"),
            r"images\.json: test/p3\.jpg and x/p3\.jpg could both be image p3",
        ),
        (lambda _, i: i["categories"][1].update(name=3), r"images\.json: categories\[1\]: has no name"),
        (lambda _, i: i.pop("categories"), r"images\.json: has no list of categories"),
        (
            lambda _, i: i.update(categories=i["categories"][2:]),
            r"none of its categories \(wombat\) is a class",
        ),
        (lambda _, i: i.update(images=i["images"][3:]), r"none of its 1 images is one of the data set"),
    ],
)
def test_malformed_files_are_named_in_one_line(tmp_path, change, message):
    detections, images = results(), listing()
    change(detections, images)
    with pytest.raises(UserError, match=message) as error:
        read_results(write(tmp_path, detections, images), zoo())
    assert str(error.value).startswith(str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "\xff\xfe", "[" * 100_000, "{}", "3", "null"])
def test_what_is_no_results_file_is_refused(tmp_path, text):
    path = tmp_path / "detections.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"detections\.json: "):
        read_results(path, zoo())


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path, said in ((tmp_path / "nowhere.json", "no such file"), (tmp_path, "holds no detections")):
        with pytest.raises(UserError, match=said):
            read_results(path, zoo())


def test_foreign_ids_without_a_listing_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none of its image ids .* no images\.json"):
        read_results(write(tmp_path, results()), zoo())


def test_the_figures_are_those_of_both_evaluators(tmp_path):
    dataset = zoo()
    aligned = read_results(write(tmp_path, results(), listing()), dataset)
    figures = json.loads(json.dumps(evaluate(dataset, aligned), allow_nan=False))
    voc = evaluate_voc(dataset, aligned.detections)
    assert figures["voc"]["mAP_area"] == voc.mAP_area == 1.0  # one false positive, ranked last
    assert figures["voc"]["per_class"]["raccoon"] == {"area": 1.0, "11point": 1.0}
    assert list(figures["coco"]) == list(FIGURES)
    whole, _ = evaluate_coco(coco_instances(dataset, [(640, 480)] * 3), aligned.coco)
    assert figures["coco"] == as_json(whole)


def test_thresholds_and_errors_are_there_for_every_class(tmp_path):
    figures = evaluate(zoo(), read_results(write(tmp_path, results(), listing()), zoo()))
    best = {"score": 0.9, "precision": 1.0, "recall": 1.0, "F1": 1.0}
    assert figures["thresholds"] == {"kangaroo": {**best, "score": 0.8}, "raccoon": best}
    assert {name: counts["correct"] for name, counts in figures["errors"].items()} == {
        "kangaroo": 1,
        "raccoon": 1,
    }
    assert sum(sum(counts.values()) for counts in figures["errors"].values()) == 2  # the rest scores less


def test_difficult_objects_count_in_neither(tmp_path):
    without = [found for found in results() if found["score"] != 0.7]  # 0.7 is on the difficult one
    figures = [
        evaluate(zoo(), read_results(write(tmp_path, found, listing()), zoo()))
        for found in (results(), without)
    ]
    assert figures[0] == figures[1]


def test_what_is_not_defined_is_null(tmp_path):
    dataset = Dataset(CLASSES, [record("p1", [], [])])
    figures = evaluate(dataset, read_results(write(tmp_path, [entry(1, 1, [0, 0, 5, 5], 0.5)]), dataset))
    assert figures["voc"] == {
        "mAP_area": None,
        "mAP_11point": None,
        "per_class": {name: {"area": None, "11point": None} for name in CLASSES},
    }
    assert figures["coco"] == dict.fromkeys(FIGURES)
    assert figures["coco_per_class"] == {name: dict.fromkeys(FIGURES) for name in CLASSES}
    assert figures["thresholds"] == dict.fromkeys(CLASSES)


def test_areas_of_masks_are_those_of_the_coco_file(tmp_path):
    """A box of 100 x 100 whose mask covers 900 pixels is a small object, which only the file tells."""
    instances = {
        "images": [{"id": 1, "file_name": "p1.jpg", "width": 640, "height": 480}],
        "categories": [{"id": 7, "name": "raccoon"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": [0, 0, 100, 100], "area": 900, "iscrowd": 0}
        ],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    path = write(tmp_path, [entry(1, 7, [0, 0, 100, 90], 0.5)])
    dataset = read_coco(tmp_path / "instances.json")
    aligned = read_results(path, dataset)
    assert evaluate(dataset, aligned)["coco"]["APsmall"] is None
    figures = evaluate(dataset, aligned, instances)
    assert figures["coco"]["APsmall"] > 0
    assert evaluate_files(tmp_path / "instances.json", path) == figures


def test_a_ground_truth_that_only_pycocotools_takes_has_coco_figures_alone(tmp_path, caplog):
    instances = {
        "images": [{"id": "one"}],
        "categories": [{"id": 7}],
        "annotations": [{"id": 1, "image_id": "one", "category_id": 7, "bbox": [0, 0, 100, 100]}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    path = write(tmp_path, [entry("one", 7, [0, 0, 100, 100], 0.5)])
    with caplog.at_level(logging.WARNING):
        figures = evaluate_files(tmp_path / "instances.json", path)
    assert figures["coco"]["AP"] == pytest.approx(1)
    assert figures["voc"] is None
    assert "no VOC figures" in caplog.text


def test_figures_come_per_class_and_at_other_ious(tmp_path):
    dataset = zoo()
    aligned = read_results(write(tmp_path, results(), listing()), dataset)
    figures = json.loads(json.dumps(evaluate(dataset, aligned, ious=[0.95, 0.5]), allow_nan=False))
    assert figures["voc_at"]["0.5"] == figures["voc"]
    assert figures["voc_at"]["0.95"]["per_class"]["raccoon"] == {"area": 0, "11point": 0}  # its IoU is .9
    assert figures["voc_at"]["0.95"]["mAP_area"] == 0.5
    assert list(figures["coco_per_class"]) == list(CLASSES)
    mean = sum(one["AP"] for one in figures["coco_per_class"].values()) / 2
    assert mean == pytest.approx(figures["coco"]["AP"])


def test_an_evaluation_holds_what_its_figures_were_made_of(tmp_path):
    dataset = zoo()
    aligned = read_results(write(tmp_path, results(), listing()), dataset)
    evaluation = evaluation_of(dataset, aligned, ious=[0.95])
    assert (evaluation.dataset, evaluation.detections) == (dataset, aligned.detections)
    figures = evaluation.figures()
    assert figures["coco"] == as_json(evaluation.coco)
    assert figures["voc"]["mAP_area"] == evaluation.voc.mAP_area
    assert figures["voc_at"]["0.95"]["mAP_area"] == evaluation.voc_at["0.95"].mAP_area
    assert figures["thresholds"]["raccoon"]["score"] == evaluation.best["raccoon"].score
    assert evaluation.best["raccoon"].f1 == evaluation.curves["raccoon"].f1.max()
    correct = sum(int((one.kinds == Kind.CORRECT).sum()) for one in evaluation.errors)
    assert correct == sum(one["correct"] for one in figures["errors"].values())
