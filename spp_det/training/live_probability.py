"""What the scores of a growing detector mean: each new photo is looked at before it is learnt from.

The detections of the detector of the moment are then those of a photo that it has not seen. The annotation
that has just arrived says whether they are right. From them come the curves from scores to probabilities
(`spp_det.model.probability`), as in a training from its held-out folds. A detector that had learnt from less
than a quarter of today's photos does not count: its scores meant less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spp_det.boxes import Ints
from spp_det.data.matching import Outcome, match_image
from spp_det.data.records import select
from spp_det.model.detector import Detector
from spp_det.model.probability import Flags, Probabilities, fit_probabilities
from spp_det.runtime.threads import ahead
from spp_det.training.live_photos import LivePhotos, Photo


@dataclass(frozen=True, eq=False)
class _Judged:
    """Detections in a photo that the detector had not learnt from.

    Attributes:
        known: how many photos the detector had learnt from.
        classes: the names that the labels count.
        scores, labels, right: of each detection ``[n]``.
    """

    known: int
    classes: tuple[str, ...]
    scores: np.ndarray[tuple[int], np.dtype[np.floating]]
    labels: Ints
    right: Flags


class LiveProbability:
    """The curves of the moment, from what earlier detectors found in photos that were new to them."""

    def __init__(self) -> None:
        self._judged: dict[str, _Judged] = {}  # by image id

    def look(
        self, detector: Detector, known: int, live: LivePhotos, new: Sequence[str], workers: int
    ) -> None:
        """Judge what a detector that has learnt from ``known`` photos finds in ``new`` ones. Forget photos
        that are gone, and what detectors of few photos have found."""

        def outcomes(name: str) -> _Judged:
            return _outcomes(detector, live.photos[name], live.classes, known)

        every = self._judged | dict(zip(new, ahead(outcomes, new, workers), strict=True))
        enough = len(live.photos) / 4
        self._judged = {n: each for n, each in every.items() if n in live.photos and each.known >= enough}

    def curves(self, classes: Sequence[str]) -> Probabilities | None:
        """The curves of these classes; None where too little has been judged."""
        every = list(self._judged.values())
        if not every:
            return None
        scores = np.concatenate([each.scores for each in every])
        right = np.concatenate([each.right for each in every])
        labels = np.concatenate([_relabelled(each.labels, each.classes, classes) for each in every])
        kept = labels >= 0
        return fit_probabilities(scores[kept], labels[kept], right[kept], len(classes))[0]


def _outcomes(detector: Detector, photo: Photo, classes: tuple[str, ...], known: int) -> _Judged:
    """Judge the detections in one photo, whose labels count ``classes``. The detector may lack some of these
    classes, and may know classes that are gone."""
    windows, (width, height) = photo.windows, photo.windows.record.size or (0, 0)
    found = detector.detect_on(photo.maps(), windows.boxes[windows.objects :], width, height)
    labels = _relabelled(found["labels"], detector.classes, classes)
    found = select({**found, "labels": labels}, labels >= 0)
    outcome = match_image(windows.record, found).outcome
    found, outcome = select(found, outcome != Outcome.IGNORED), outcome[outcome != Outcome.IGNORED]
    return _Judged(known, classes, found["scores"], found["labels"], outcome == Outcome.TRUE)


def _relabelled(labels: Ints, before: Sequence[str], now: Sequence[str]) -> Ints:
    """Labels of the classes ``before`` as labels of the classes ``now``; -1 for a class that is not there."""
    place = {name: label for label, name in enumerate(now)}
    return np.array([place.get(name, -1) for name in before], np.int64)[labels]
