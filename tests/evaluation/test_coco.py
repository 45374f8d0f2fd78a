"""The COCO figures against pycocotools, run through files as its own demo runs it."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from spp_det.data.coco import coco_instances
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.evaluation.coco import FIGURES, evaluate_coco


def figures_of(*arguments, **options) -> dict[str, float]:
    """Of all classes together."""
    return evaluate_coco(*arguments, **options)[0]


def by_files(instances, results, folder, categories=None, max_dets=100):
    """The twelve numbers of the official way: two files, `COCO`, `loadRes`, `COCOeval`.

    With another limit than 100 its summary has -1 for AP, of which the mean is then taken as it takes it.
    """
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "instances.json"))
    evaluator = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluator.params.catIds = categories or evaluator.params.catIds
    evaluator.params.maxDets = [1, 10, max_dets]
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    if max_dets == 100:
        return evaluator.stats
    precision = evaluator.eval["precision"][:, :, :, 0, 2]  # of all areas, at the largest limit
    assert evaluator.stats[0] == -1
    return [precision[precision > -1].mean() if (precision > -1).any() else -1, *evaluator.stats[1:]]


def assert_same(figures, numbers) -> None:
    """To the last digit, NaN where pycocotools says -1."""
    assert [-1 if np.isnan(value) else value for value in figures.values()] == list(numbers)


def scene(seed=0, images=12, categories=3, tries=3):
    """Random objects, a tenth of them crowds, and under ``tries`` detections near each, with tied scores."""
    generator = np.random.default_rng(seed)
    annotations, results = [], []
    for image_id in range(10, 10 + images):
        for _ in range(generator.integers(0, 6)):
            x, y = generator.uniform(0, 200, 2)
            width, height = generator.uniform(5, 200, 2)
            category = int(generator.integers(1, categories + 1))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": category,
                    "bbox": [x, y, width, height],
                    "area": width * height * 0.7,  # as of a mask: less than the box
                    "iscrowd": int(generator.random() < 0.1),
                }
            )
            for _ in range(generator.integers(0, tries)):
                shift = generator.normal(0, 0.1, 4) * [width, height, width, height]
                results.append(
                    {
                        "image_id": image_id,
                        "category_id": category if generator.random() < 0.9 else 1,
                        "bbox": list(np.array([x, y, width, height]) + shift),
                        "score": round(float(generator.random()), 1),
                    }
                )
    return {
        "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(10, 10 + images)],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, categories + 1)],
        "annotations": annotations,
    }, results


@pytest.mark.parametrize("seed", range(8))
def test_equals_pycocotools_to_the_last_digit(seed, tmp_path):
    instances, results = scene(seed)
    figures = figures_of(instances, results)
    assert tuple(figures) == tuple(FIGURES)
    assert_same(figures, by_files(instances, results, tmp_path))
    assert 0 < figures["AP"] < 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_dets", [100, 11, 300])
def test_those_of_each_class_equal_pycocotools_on_that_class_alone(seed, max_dets, tmp_path):
    instances, results = scene(seed)
    instances["categories"].insert(0, {"id": 9, "name": "never seen"})
    whole, per_class = evaluate_coco(instances, results, max_dets=max_dets)
    assert_same(whole, by_files(instances, results, tmp_path, None, max_dets))
    assert list(per_class) == [9, 1, 2, 3]
    for category, figures in per_class.items():
        assert_same(figures, by_files(instances, results, tmp_path, [category], max_dets))


def test_a_limit_is_a_choice_of_the_best_detections(tmp_path):
    instances, results = scene(images=3, categories=2, tries=160)
    best = {}
    for entry in sorted(results, key=lambda entry: -entry["score"]):
        best.setdefault((entry["image_id"], entry["category_id"]), []).append(entry)
    by_limit = {limit: figures_of(instances, results, max_dets=limit) for limit in (20, 100, 300)}
    for limit, figures in by_limit.items():
        chosen = [entry for entries in best.values() for entry in entries[:limit]]
        assert_same(figures, by_files(instances, chosen, tmp_path, max_dets=limit))
        if limit == 20:  # pycocotools' own summary of AP, which is at 100 alone
            assert figures["AP"] == by_files(instances, chosen, tmp_path)[0]
    assert len({figures["AP"] for figures in by_limit.values()}) == 3


def test_a_limit_of_detections_names_its_figure_and_leaves_the_others_out():
    instances = {
        "images": [{"id": 1}],
        "categories": [{"id": 1}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 50, 50]}],
    }
    entry = {"image_id": 1, "category_id": 1}
    results = [{**entry, "bbox": [99, 99, 5, 5], "score": 1 + i} for i in range(11)]
    results.append({**entry, "bbox": [0, 0, 50, 50], "score": 0.5})  # the twelfth
    few, more = (figures_of(instances, results, max_dets=limit) for limit in (11, 12))
    assert (few["AP"], few["AR11"]) == (0, 0)
    assert more["AR12"] == 1
    assert more["AP"] == pytest.approx(1 / 12)
    assert list(more) == [name.replace("AR100", "AR12") for name in FIGURES]
    with pytest.raises(UserError, match="max_dets must be more than 10, got 10"):
        figures_of(instances, results, max_dets=10)


def test_a_crowd_takes_any_number_of_detections_and_need_not_be_found():
    objects = [[0, 0, 50, 50], [100, 0, 80, 80]]
    crowd, single = (
        {
            "images": [{"id": 1}],
            "categories": [{"id": 1}],
            "annotations": [
                {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": flag * i}
                for i, box in enumerate(objects)
            ],
        }
        for flag in (1, 0)
    )
    inside = [[100, 0, 40, 40], [140, 0, 40, 40], [100, 40, 40, 40]]  # IoU of a quarter, but all in the crowd
    results = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9 - i / 10}
        for i, box in enumerate([*inside, objects[0]])
    ]
    assert figures_of(crowd, results)["AP"] == pytest.approx(1)
    assert figures_of(single, results)["AP"] == pytest.approx(0.25 * 51 / 101)


def test_undefined_figures_are_nan_where_pycocotools_says_minus_one(tmp_path):
    instances, results = scene()
    instances["annotations"] = [a for a in instances["annotations"] if a["area"] > 96**2]
    figures = figures_of(instances, results)
    assert np.isnan([figures["APsmall"], figures["ARmedium"]]).all()
    assert_same(figures, by_files(instances, results, tmp_path))


def test_difficult_objects_written_as_crowds_change_the_figures():
    # Found are, in this order: the second object, the second again, the first.
    boxes, results = np.float32([(0, 0, 50, 50), (100, 0, 150, 50)]), []
    for x, score in ((100, 0.9), (100, 0.8), (0, 0.7)):
        results.append({"image_id": 1, "category_id": 1, "bbox": [x, 0, 50, 50], "score": score})

    def figures(difficult):
        flags = np.array([False, difficult])
        record = Record("a", Path("a.jpg"), boxes, np.zeros(2, np.int64), flags, np.zeros(2, np.bool_))
        return figures_of(coco_instances(Dataset(("cat",), [record]), [(200, 50)]), results)

    # Difficult, it takes both detections, and one object is left, found by what comes first.
    assert figures(difficult=True)["AP"] == pytest.approx(1, abs=1e-12)
    # Else precision is 1, 1/2, 2/3 at recall .5, .5, 1: of the 101 points 51 have 1, and 50 have 2/3.
    assert figures(difficult=False)["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert (figures(difficult=True)["AR1"], figures(difficult=False)["AR1"]) == (0, 0.5)


def test_no_results():
    instances, _ = scene()
    figures = figures_of(instances, [])
    assert all(value == 0 for value in figures.values())


def test_no_images():
    figures = figures_of({"images": [], "annotations": [], "categories": []}, [])
    assert np.isnan(list(figures.values())).all()


def test_results_of_unknown_categories_count_nothing(tmp_path):
    instances, results = scene()
    more = [*results, {**results[0], "category_id": 99}]
    assert figures_of(instances, more) == figures_of(instances, results)
    assert_same(figures_of(instances, more), by_files(instances, more, tmp_path))


def test_ids_may_be_names(tmp_path):
    instances, results = scene()
    for entry in [*instances["annotations"], *results]:
        entry["image_id"] = f"photo {entry['image_id']}"
    for image in instances["images"]:
        image["id"] = f"photo {image['id']}"
    assert_same(figures_of(instances, results), by_files(instances, results, tmp_path))


def test_area_and_iscrowd_may_be_left_out():
    instances, results = scene()
    full, bare = copy.deepcopy(instances), copy.deepcopy(instances)
    for annotation in full["annotations"]:
        annotation.update(iscrowd=0, area=annotation["bbox"][2] * annotation["bbox"][3])
    for annotation in bare["annotations"]:
        del annotation["iscrowd"], annotation["area"]
    assert figures_of(bare, results) == figures_of(full, results)


def test_arguments_are_not_changed_and_nothing_is_printed(capsys):
    instances, results = scene()
    before = copy.deepcopy((instances, results))
    figures_of(instances, results)
    assert (instances, results) == before
    assert capsys.readouterr().out == ""


def test_the_annotation_id_that_pycocotools_overlooks_counts_as_any_other(caplog):
    instances, results = scene()
    before = figures_of(instances, results)
    instances["annotations"][0]["id"] = 0
    with caplog.at_level(logging.WARNING):
        assert figures_of(instances, results) == before
    assert caplog.text == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), "0.5", None, 10**400])
def test_scores_and_boxes_that_are_not_finite_numbers_are_refused(bad):
    instances, results = scene()
    with pytest.raises(UserError, match=r"^results\[3\]: score must be a finite number"):
        figures_of(instances, [*results[:3], {**results[3], "score": bad}])
    with pytest.raises(UserError, match=r"^results\[3\]: bbox must be four finite numbers"):
        figures_of(instances, [*results[:3], {**results[3], "bbox": [0, 0, 5, bad]}])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 999}, "image_id 999 is not in ground truth"),
        ({"image_id": 1.5}, "image_id must be a whole number or a text"),
        ({"bbox": [0, 0, 5]}, "bbox must be four finite numbers"),
        ({"bbox": None}, "bbox must be four finite numbers"),
    ],
)
def test_malformed_results_are_named(change, message):
    instances, results = scene()
    with pytest.raises(UserError, match=r"^results\[1\]: ") as error:
        figures_of(instances, [results[0], {**results[1], **change}])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "score"])
def test_results_that_lack_a_field_are_named(key):
    instances, results = scene()
    del results[2][key]
    with pytest.raises(UserError, match=rf"^results\[2\]: .*{key}"):
        figures_of(instances, results)


@pytest.mark.parametrize("results", [{"image_id": 1}, "[]", None, [1], [[]]])
def test_what_is_no_results_list_is_refused(results):
    with pytest.raises(UserError, match=r"^results"):
        figures_of(scene()[0], results)


@pytest.mark.parametrize(
    ("section", "index", "change", "message"),
    [
        ("images", 0, {"id": 11}, "images: the id 11 occurs more than once"),
        ("images", 0, {"id": "10"}, "images: some ids are numbers and some are text"),
        ("annotations", 1, {"bbox": []}, "annotations[1]: bbox must be four finite numbers"),
        ("annotations", 1, {"iscrowd": "yes"}, "annotations[1]: iscrowd must be 0 or 1"),
        ("categories", 2, {"id": None}, "categories[2]: id must be a whole number or a text"),
    ],
)
def test_a_malformed_ground_truth_is_named(section, index, change, message):
    instances, results = scene()
    instances[section][index].update(change)
    with pytest.raises(UserError) as error:
        figures_of(instances, results)
    assert str(error.value).startswith(f"ground truth: {message}")


@pytest.mark.parametrize(
    "change", [{"id": 1}, {"id": "b"}, {"area": None}, {"area": "x"}, {"iscrowd": None}, {"iscrowd": False}]
)
def test_what_tools_write_in_other_ways_counts_the_same(change):
    instances, results = scene()
    plain = copy.deepcopy(instances)
    del plain["annotations"][1]["area"]  # that of the box counts where none is stated
    expected = figures_of(plain if "area" in change else instances, results)
    instances["annotations"][1].update(change)
    assert figures_of(instances, results) == expected


@pytest.mark.parametrize("instances", [[], None, {}, {"images": [], "annotations": []}, {"images": 3}])
def test_what_is_no_ground_truth_is_refused(instances):
    with pytest.raises(UserError, match=r"^ground truth: "):
        figures_of(instances, [])
