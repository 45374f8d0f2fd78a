"""What a folder of detections holds, as its user asks for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from spp_det.errors import UserError
from spp_det.model.probability import Probabilities

FORMATS = ("coco", "voc", "yolo", "csv", "devkit")
"""Those that `spp_det.detections.reader` reads."""

PRE_LABELS = ("cvat", "label-studio")
"""Those that annotation tools open for a labeller to correct; see `spp_det.data.corrected`."""


@dataclass(frozen=True)
class Output:
    """What a folder of detections holds beside the COCO results list. Names of formats are checked.

    Attributes:
        formats: any of `FORMATS` and `PRE_LABELS`.
        draw: pictures of the images with their detections.
        crops: every detected object, cut out of its image.
        score: detections that score less are left out of everything; None keeps all.
        draw_score: without ``score``, the least score of detections in pictures and crops.
        scores: YOLO's lines end in a score; labelling tools want none.
        probability: what the scores mean, for Label Studio's tasks; None: the logistic function of the score,
            or, where ``are_probabilities``, the score itself.
        are_probabilities: the scores are probabilities.
    """

    formats: Sequence[str] = ()
    draw: bool = False
    crops: bool = False
    score: float | None = None
    draw_score: float = 0.0
    scores: bool = True
    probability: Probabilities | None = None
    are_probabilities: bool = False

    def __post_init__(self) -> None:
        """Raise UserError for a format that is none of these."""
        unknown = sorted(set(self.formats) - {*FORMATS, *PRE_LABELS})
        if unknown:
            raise UserError(
                f"no format is called {unknown[0]!r}; there are {', '.join([*FORMATS, *PRE_LABELS])}"
            )


PLAIN = Output()
