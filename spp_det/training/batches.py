"""The windows that a step of the fine-tuning sees: 25% positives, the rest background (P section 4.1).

Each step's draw is a function of the seed and the step's number alone. A training that was stopped therefore
goes on with the same windows, without the state of any generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spp_det.boxes import Ints
from spp_det.config.settings import FineTune
from spp_det.training.windows import LabelledWindows

ORDER, STEP, HELD_OUT, WATCHED = 1, 2, 3, 4  # independent streams of random numbers


@dataclass(frozen=True, eq=False)
class Candidates:
    """The windows of one image that the fine-tuning may draw.

    Attributes:
        positives: int64 ``[P]``, windows that show an object.
        labels: int64 ``[P]``, the class of each positive.
        negatives: int64 ``[M]``, windows that overlap an object a little; where there are none, windows that
            overlap objects less than that.
    """

    positives: Ints
    labels: Ints
    negatives: Ints

    @classmethod
    def of(cls, windows: LabelledWindows, settings: FineTune) -> Candidates:
        """The candidates among an image's windows. Windows on difficult objects and crowds are neither."""
        positives, objects = windows.near(settings.positive_iou)
        negatives = windows.background(settings.negative_iou_low, settings.negative_iou_high)
        if not len(negatives):
            negatives = windows.background(0, settings.negative_iou_low)
        return cls(positives, windows.record.labels[objects], negatives)

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.positives) + len(self.negatives)


@dataclass(frozen=True, eq=False)
class Batch:
    """The windows of one step, B of them, image by image.

    Attributes:
        images: int64 ``[B]``, the image of each window.
        windows: int64 ``[B]``, the index of each window in its image.
        labels: int64 ``[B]``, the class of each window; K is the background.
        scales: int64 ``[B]``, the map of the image that each window is pooled from.
        mirrored: bool ``[B]``.
        seed: of the step's dropout.
    """

    images: Ints
    windows: Ints
    labels: Ints
    scales: Ints
    mirrored: npt.NDArray[np.bool_]
    seed: int


class BatchSampler:
    """Draws the windows of each step."""

    def __init__(
        self,
        candidates: Sequence[Candidates],
        images: Ints,
        background: int,
        scales: int,
        settings: FineTune,
        seed: int,
    ) -> None:
        """Sample from the images ``[n]`` that have a candidate.

        Args:
            candidates: the candidates of every image, also of images that are not drawn from.
            background: the label K.
            scales: the number of maps of an image.

        Raises ValueError where no image has a positive.
        """
        self.candidates = candidates
        self.images = np.array([i for i in images if len(candidates[i])], np.int64)
        self.with_objects = np.array([i for i in images if len(candidates[i].positives)], np.int64)
        if not len(self.with_objects):
            raise ValueError("there is no positive window")
        self.background = background
        self.scales = scales
        self.settings = settings
        self.seed = seed

    def step(self, number: int) -> Batch:
        """The batch of a step. Images take turns, none twice before all; one at least has a positive."""
        rng = np.random.default_rng([self.seed, STEP, number])
        count = min(self.settings.images_per_step, len(self.images))
        images = np.unique([self._in_order(place) for place in range(number * count, (number + 1) * count)])
        if not np.isin(images, self.with_objects).any():
            images[0] = rng.choice(self.with_objects)
            images.sort()
        return self.draw(images, self.settings.batch, rng)

    def _in_order(self, place: int) -> int:
        """An endless sequence of images: one permutation of them after another."""
        turn, position = divmod(place, len(self.images))
        order = np.random.default_rng([self.seed, ORDER, turn]).permutation(len(self.images))
        return int(self.images[order[position]])

    def draw(self, images: Ints, size: int, rng: np.random.Generator) -> Batch:
        """A batch of ``size`` windows from images ``[n]``, at least one of which has a positive.

        The share of positives is the settings' share; without a negative all windows are positives.
        """
        positives = max(1, round(size * self.settings.positive_fraction))
        offered = [self.candidates[image] for image in images]
        if not any(len(each.negatives) for each in offered):
            positives = size
        image_of, place = _in_turn([len(each.positives) for each in offered], positives, rng)
        chosen = [offered[i] for i in image_of]
        windows = [each.positives[p] for each, p in zip(chosen, place, strict=True)]
        labels = [each.labels[p] for each, p in zip(chosen, place, strict=True)]
        other_image_of, place = _in_turn([len(each.negatives) for each in offered], size - positives, rng)
        windows += [offered[i].negatives[p] for i, p in zip(other_image_of, place, strict=True)]
        labels += [self.background] * (size - positives)
        of_image = images[np.concatenate([image_of, other_image_of])]
        order = np.argsort(of_image, kind="stable")
        return Batch(
            images=of_image[order],
            windows=np.array(windows, np.int64)[order],
            labels=np.array(labels, np.int64)[order],
            scales=rng.integers(self.scales, size=size),
            mirrored=(rng.random(size) < 0.5) & self.settings.flips,
            seed=int(rng.integers(2**63)),
        )


def _in_turn(offers: Sequence[int], count: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Draw ``count`` candidates: from the images in turn, none twice before all have been drawn.

    ``offers`` is the number of candidates of each image. Returns the image ``[count]`` and the place
    ``[count]`` of each candidate there.
    """
    image = np.repeat(np.arange(len(offers)), offers)
    place = np.concatenate([rng.permutation(n) for n in offers])
    turn = np.concatenate([np.arange(n) for n in offers])
    drawn = np.resize(np.lexsort((image, turn)), count)  # where there are fewer, again from the first
    return image[drawn], place[drawn]


def hold_out(
    candidates: Sequence[Candidates], classes: int, settings: FineTune, seed: int
) -> tuple[Ints, Ints]:
    """Divide the images into images to learn from and held-out images to measure on, both ascending.

    At most the settings' share is held out, drawn at random from the images with a positive. An image
    with the last objects of a class is not held out.
    """
    left = np.zeros(classes, np.int64)  # images of each class
    holds = [np.unique(each.labels) for each in candidates]
    for labels in holds:
        left[labels] += 1
    held_out: list[int] = []
    for image in np.random.default_rng([seed, HELD_OUT]).permutation(len(candidates)):
        if len(held_out) + 1 > settings.held_out * len(candidates):
            break
        if len(holds[image]) and (left[holds[image]] > 1).all():
            left[holds[image]] -= 1
            held_out.append(int(image))
    return np.setdiff1d(np.arange(len(candidates)), held_out), np.array(sorted(held_out), np.int64)
