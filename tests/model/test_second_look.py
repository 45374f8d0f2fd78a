"""The second look against a slow version, candidate by candidate."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.boxes import iou
from spp_det.config.network import FC
from spp_det.proposals import selective_search


def slow_twice(detector, image, windows):
    """Candidate by candidate: moved, looked at where it is then, and the mean of both looks."""
    settings, maps = detector.settings.detection, detector.features.maps(image)
    first, second = detector.regressors

    def look(box, label):
        vector = detector.features.vectors(maps, box[None]).make(np.array([0]))
        seen = vector if detector.head is None else detector.head(vector)
        return vector, float(detector.scorer(seen)[0, label])

    scored = [
        (look(window, label)[1], label, i)
        for label in range(len(detector.classes))
        for i, window in enumerate(windows)
    ]
    seen, rows = [], []  # label, window; label, score, box
    for score, label, i in sorted(scored, key=lambda row: -row[0]):
        rivals = [j for other, j in seen if other == label]
        near = [j for j in rivals if iou(windows[[i]], windows[[j]])[0, 0] > 0.7]
        room = len(rivals) < 2 * settings.max_per_image and len(seen) < 2 * settings.max_all_classes
        if score > settings.score_threshold and not near and room:
            seen.append((label, i))
            box = first(look(windows[i], label)[0], np.array([label]), windows[[i]])
            vector, again = look(box[0], label)
            end = second(vector, np.array([label]), box)
            if (score + again) / 2 > settings.score_threshold:
                rows.append((label, (score + again) / 2, ((box + end) / 2)[0]))
    found = []
    for label, score, box in sorted(rows, key=lambda row: -row[1]):
        rivals = [row for row in found if row[0] == label]
        near = [row for row in rivals if iou(box[None], row[2][None])[0, 0] > settings.nms]
        if not near and len(rivals) < settings.max_per_image and len(found) < settings.max_all_classes:
            found.append((label, score, box))
    limit = np.array([image.shape[1], image.shape[0]] * 2)
    return {
        "labels": np.array([row[0] for row in found]),
        "scores": np.array([row[1] for row in found]),
        "boxes": np.clip(np.array([row[2] for row in found]), 0, limit),
    }


@pytest.mark.parametrize("layer", ["pool5", "fc6"])
@pytest.mark.parametrize(("limit", "most"), [(4, 200), (100, 200), (100, 7)])
def test_two_passes_are_those_of_the_slow_version(build_detector, images, limit, most, layer):
    detector = build_detector(
        passes=2,
        fc=FC(layer=layer, width=32, weights="random"),
        scales=(100, 160),
        score_threshold=-0.5,
        max_per_image=limit,
        max_all_classes=most,
    )
    windows = selective_search(images[0])[::3]
    found, expected = detector.detect(images[0], windows), slow_twice(detector, images[0], windows)
    assert len(expected["labels"])
    assert found["labels"].tolist() == expected["labels"].tolist()
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)
