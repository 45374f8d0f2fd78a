"""Kinds of errors: a table worked by hand, and properties that hold of any detections."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from spp_det.data.records import Dataset, Record
from spp_det.evaluation.errors import Kind, confusion_matrix, count_errors, sort_errors
from spp_det.evaluation.voc import evaluate_voc

CAT, DOG = 0, 1


def image(*objects, difficult=(), crowd=()):
    """A record from rows ``(x1, y1, x2, y2, label)``, and the positions of the ones that do not count."""
    flags = np.zeros((2, len(objects)), np.bool_)
    flags[0, list(difficult)] = flags[1, list(crowd)] = True
    boxes = np.array([row[:4] for row in objects], np.float32).reshape(-1, 4)
    return Record("image", Path("x"), boxes, np.array([row[4] for row in objects], np.int64), *flags)


def found(*rows):
    """The detections of one image from rows ``(x1, y1, x2, y2, label, score)``."""
    return {
        "boxes": np.array([row[:4] for row in rows], np.float32).reshape(-1, 4),
        "labels": np.array([row[4] for row in rows], np.int64),
        "scores": np.array([row[5] for row in rows], np.float64),
    }


def sort(record, detections):
    (errors,) = sort_errors(Dataset(("cat", "dog"), [record]), [detections])
    return errors


def test_every_kind_worked_by_hand():
    record = image((0, 0, 10, 10, CAT), (100, 0, 110, 10, DOG), (200, 0, 210, 10, CAT), difficult=[2])
    rows = [
        ((0, 0, 10, 10, CAT, 0.9), Kind.CORRECT, 0, 1.0),
        ((0, 0, 10, 8, CAT, 0.8), Kind.DUPLICATE, 0, 0.8),
        ((0, 0, 10, 4, CAT, 0.7), Kind.LOCALISATION, 0, 0.4),
        ((0, 0, 10, 1, CAT, 0.7), Kind.LOCALISATION, 0, 0.1),
        ((0, 0, 9, 1, CAT, 0.7), Kind.BACKGROUND, -1, 0.0),
        ((100, 0, 110, 5, CAT, 0.6), Kind.CONFUSED, 1, 0.5),
        ((100, 0, 110, 4, CAT, 0.6), Kind.BACKGROUND, -1, 0.0),
        ((200, 0, 210, 10, CAT, 0.5), Kind.IGNORED, 2, 1.0),
        ((200, 0, 210, 4, CAT, 0.5), Kind.LOCALISATION, 2, 0.4),
        ((200, 0, 210, 10, DOG, 0.5), Kind.CONFUSED, 2, 1.0),
        ((500, 0, 510, 10, DOG, 0.4), Kind.BACKGROUND, -1, 0.0),
    ]
    errors = sort(record, found(*(row[0] for row in rows)))
    assert [Kind(kind) for kind in errors.kinds] == [row[1] for row in rows]
    assert errors.objects.tolist() == [row[2] for row in rows]
    np.testing.assert_allclose(errors.overlaps, [row[3] for row in rows], rtol=1e-6)
    assert errors.found_at.tolist() == [0.9, -np.inf, np.inf]


def test_confused_comes_before_localisation():
    record = image((0, 0, 10, 10, CAT), (0, 0, 10, 20, DOG))
    errors = sort(record, found((0, 0, 10, 19, CAT, 0.9)))  # IoU 0.53 with the cat: correct
    assert errors.kinds.tolist() == [Kind.CORRECT]
    record = image((0, 0, 10, 8, CAT), (0, 0, 10, 20, DOG))
    assert sort(record, found((0, 0, 10, 19, CAT, 0.9))).kinds.tolist() == [Kind.CONFUSED]


def test_crowd_counts_as_difficult():
    errors = sort(image((0, 0, 10, 10, CAT), crowd=[0]), found((0, 0, 10, 10, CAT, 0.9)))
    assert (errors.kinds.tolist(), errors.found_at.tolist()) == ([Kind.IGNORED], [np.inf])


def test_objects_are_counted_from_the_first_of_their_own_image():
    cat, far_cat = (0, 0, 9, 9, CAT), (20, 0, 30, 10, CAT)
    dataset = Dataset(("cat",), [image(cat), image(), image(far_cat, cat)])
    detections = [found(), found((0, 0, 9, 9, CAT, 0.5)), found((0, 0, 9, 9, CAT, 0.7))]
    first, empty, last = sort_errors(dataset, detections)
    assert first.found_at.tolist() == [-np.inf]
    assert (empty.kinds.tolist(), empty.objects.tolist()) == ([Kind.BACKGROUND], [-1])
    assert (last.objects.tolist(), last.found_at.tolist()) == ([1], [-np.inf, 0.7])


def test_counts_at_a_threshold_a_class():
    dataset = Dataset(
        ("cat", "dog", "eel"), [image((0, 0, 9, 9, CAT), (50, 0, 59, 9, DOG), (90, 0, 99, 9, 2))]
    )
    detections = [found((0, 0, 9, 9, CAT, 0.5), (50, 0, 59, 9, DOG, 0.5), (0, 50, 9, 59, DOG, 0.9))]
    errors = sort_errors(dataset, detections)
    counts = count_errors(dataset, detections, errors, {"cat": 0.5, "dog": 0.6})
    assert list(counts["cat"]) == [kind.name.lower() for kind in Kind]
    assert +Counter(counts["cat"]) == {"correct": 1}  # at the threshold itself it is shown
    assert +Counter(counts["dog"]) == {"background": 1, "missed": 1}
    assert +Counter(counts["eel"]) == {"missed": 1}  # no threshold


@st.composite
def scenes(draw):
    """Images of small whole-numbered boxes, so that ties and overlaps are common."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def rows(count):
        corners = generator.integers(0, 6, (count, 2))
        boxes = np.concatenate([corners, corners + generator.integers(1, 6, (count, 2))], 1)
        return np.concatenate([boxes, generator.integers(0, 2, (count, 1))], 1)

    records, detections = [], []
    for _ in range(draw(st.integers(1, 3))):
        count = int(generator.integers(0, 8))
        hard = np.flatnonzero(generator.random(count) < 0.2)
        records.append(image(*rows(count), difficult=hard))
        detected = rows(int(generator.integers(0, 10)))
        detections.append(found(*((*row, generator.integers(0, 4)) for row in detected)))
    return Dataset(("cat", "dog"), records), detections


@settings(max_examples=150)
@given(scenes(), st.integers(0, 4))
def test_counts_agree_with_voc_at_every_threshold(scene, threshold):
    """Leaving out what scores less and evaluating anew gives what was sorted once."""
    dataset, detections = scene
    errors = sort_errors(dataset, detections)
    counts = count_errors(dataset, detections, errors, dict.fromkeys(dataset.classes, threshold))
    kept = [{key: value[one["scores"] >= threshold] for key, value in one.items()} for one in detections]
    voc = evaluate_voc(dataset, kept).per_class
    for name, one in counts.items():
        hits = int(voc[name].hit.sum())
        assert one["correct"] == hits
        assert one["missed"] == voc[name].positives - hits
        wrong = sum(one[kind] for kind in ("localisation", "confused", "duplicate", "background"))
        assert wrong == len(voc[name].hit) - hits


@settings(max_examples=150)
@given(scenes(), st.integers(0, 4), st.booleans())
def test_the_sums_of_the_confusion_are_the_counts_of_errors(scene, threshold, only_cats):
    dataset, detections = scene
    thresholds = dict.fromkeys(dataset.classes[: 1 if only_cats else 2], threshold)
    errors = sort_errors(dataset, detections)
    counts = count_errors(dataset, detections, errors, thresholds)
    matrix = confusion_matrix(dataset, detections, errors, thresholds)
    assert matrix.shape == (3, 3)
    for label, name in enumerate(dataset.classes):
        kinds, column = counts[name], matrix[:, label]
        assert column[label] == kinds["correct"]
        assert column[:-1].sum() - column[label] == kinds["confused"]
        assert column[-1] == kinds["localisation"] + kinds["duplicate"] + kinds["background"]
        assert matrix[label, -1] == kinds["missed"]
        easy = sum(int((one.labels == label)[~one.difficult].sum()) for one in dataset.records)
        assert column[label] + matrix[label, -1] == easy
    assert matrix[-1, -1] == 0


def test_a_confusion_names_the_object_and_what_it_is_found_as():
    cat, dog = (0, 0, 10, 10, 0), (50, 0, 60, 10, 1)
    dataset = Dataset(("cat", "dog"), [image(cat, dog)])
    detections = [found((0, 0, 10, 10, 1, 0.9), (50, 0, 60, 10, 1, 0.8), (80, 0, 90, 10, 0, 0.7))]
    errors = sort_errors(dataset, detections)
    matrix = confusion_matrix(dataset, detections, errors, {"cat": 0.7, "dog": 0.0})
    assert matrix.tolist() == [[0, 1, 1], [0, 1, 0], [1, 0, 0]]
    matrix = confusion_matrix(dataset, detections, errors, {"cat": 0.71})  # a dog is not found at all then
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 1], [0, 0, 0]]


@settings(max_examples=60)
@given(scenes())
def test_the_definitions_hold_of_what_explains_a_detection(scene):
    dataset, detections = scene
    for record, one, errors in zip(
        dataset.records, detections, sort_errors(dataset, detections), strict=True
    ):
        for label, kind, thing, overlap in zip(
            one["labels"], errors.kinds, errors.objects, errors.overlaps, strict=True
        ):
            if kind == Kind.BACKGROUND:
                assert (thing, overlap) == (-1, 0)
                continue
            assert (record.labels[thing] == label) == (kind != Kind.CONFUSED)
            assert (overlap < 0.5) == (kind == Kind.LOCALISATION)
            assert overlap >= 0.1
            if kind in (Kind.CORRECT, Kind.DUPLICATE, Kind.IGNORED):
                assert record.difficult[thing] == (kind == Kind.IGNORED)
