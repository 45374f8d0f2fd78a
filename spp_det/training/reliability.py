"""How often a detection of some score is right, by detections in images that nothing has learnt from.

The images are divided into folds. Each fold is looked at by SVMs and regressors that have learnt from the
other folds alone; they are fitted to the examples of the whole training, so that no image is mined again. The
figures of the probabilities come from curves that have not seen the fold either.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from spp_det.boxes import Ints
from spp_det.data.matching import Outcome, match_image
from spp_det.model.detector import Detector
from spp_det.model.probability import Probabilities, fit_probabilities, reliability
from spp_det.runtime.cache import Arrays
from spp_det.runtime.progress import track
from spp_det.runtime.sharing import Shared
from spp_det.training.checkpoint import as_json
from spp_det.training.folds import Folds
from spp_det.training.images import TrainingImages


def judged(images: TrainingImages, sample: Ints, folds: Folds, detectors: Sequence[Detector]) -> Arrays:
    """Detections in some images ``[n]``, each by the detector that has not learnt from the image's fold.

    Returns ``scores``, ``labels``, whether each is ``right`` (IoU .5 with an object that no better detection
    has found), and its ``folds``, all ``[N]``. Detections on difficult objects and crowds are left out.
    """

    def look(index: int) -> Arrays:
        image = images.images[index]
        windows, (width, height) = image.windows, image.record.size or (0, 0)
        detector = detectors[folds.of[index]]
        found = detector.detect_on(images.maps(index), windows.boxes[windows.objects :], width, height)
        outcome = match_image(image.record, found).outcome
        kept = outcome != Outcome.IGNORED
        return {
            "scores": found["scores"][kept],
            "labels": found["labels"][kept],
            "right": outcome[kept] == Outcome.TRUE,
            "folds": np.full(int(kept.sum()), folds.of[index]),
        }

    shared = images.share(sample)
    looks = images.on_threads(look, shared.own)
    parts = list(track(Shared(looks, shared.owners).in_order(), "held-out detections", len(sample)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def learn_probabilities(found: Arrays, classes: Sequence[str], folds: int) -> Arrays:
    """The curves ``slope`` and ``intercept`` ``[K]`` from what `judged` returns, empty where there are none;
    and ``figures``, as JSON."""
    scores, labels, right = found["scores"], found["labels"], found["right"].astype(np.bool_)
    curves, own = fit_probabilities(scores, labels, right, len(classes))
    figures: dict[str, Any] = {"folds": folds}
    if curves is None:
        nothing = np.zeros(0, np.float32)
        why = "too few detections in held-out images are right or wrong, or high scores are no better there"
        return {"slope": nothing, "intercept": nothing, "figures": as_json(figures | {"none_because": why})}
    fit = partial(fit_probabilities, classes=len(classes))
    p, known = np.zeros(len(scores)), np.zeros(len(scores), np.bool_)
    for fold in range(folds):
        mine = found["folds"] == fold
        others: Probabilities | None = fit(scores[~mine], labels[~mine], right[~mine])[0]
        if others is not None:
            p[mine], known[mine] = others(scores[mine], labels[mine]), True
    figures |= reliability(p[known], right[known])
    by_class = {}
    for label, name in enumerate(classes):
        hits = right[labels == label]
        curve = "own" if own[label] else "shared"
        by_class[name] = {"right": int(hits.sum()), "wrong": int((~hits).sum()), "curve": curve}
    figures["classes"] = by_class
    return {"slope": curves.slope, "intercept": curves.intercept, "figures": as_json(figures)}
