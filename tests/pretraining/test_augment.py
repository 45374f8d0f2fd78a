"""Augmentation: what varies, what does not, and that every image gives a picture."""

from __future__ import annotations

import numpy as np
import pytest

from spp_det.pretraining.augment import augmented, recoloured

RAMP = np.stack([*np.mgrid[:224, :256], np.zeros((224, 256))], axis=2).astype(np.uint8)  # [row, column, 0]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_a_crop_is_seven_eighths_of_the_shorter_side_anywhere():
    corners = set()
    for seed in range(200):
        crop = augmented(rng(seed), RAMP, 196, flip=False, colour=0)
        top, left = crop[0, 0, :2].tolist()
        assert np.array_equal(crop, RAMP[top : top + 196, left : left + 196])
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), min(lefts)) <= (2, 2)
    assert (max(tops), max(lefts)) >= (26, 58)


def test_another_size_shows_the_same_content():
    large, small = (augmented(rng(3), RAMP, size, colour=0) for size in (224, 112))
    means = large.reshape(112, 2, 112, 2, 3).mean(axis=(1, 3))
    assert np.abs(means - small).mean() < 1


def test_half_are_mirrored_unless_that_is_off():
    def mirrored(flip: bool) -> float:
        crops = [augmented(rng(seed), RAMP, 32, flip, colour=0) for seed in range(200)]
        return float(np.mean([crop[0, 0, 1] > crop[0, -1, 1] for crop in crops]))

    assert 0.4 < mirrored(True) < 0.6
    assert mirrored(False) == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 2000), (50, 20)])
def test_every_image_gives_a_picture(shape):
    image = np.full((*shape, 3), 90, np.uint8)
    crop = augmented(rng(), image, 24)
    assert (crop.shape, crop.dtype) == ((24, 24, 3), np.uint8)
    assert crop.flags.c_contiguous


def test_equal_generators_give_equal_pictures_and_the_image_stays():
    before = RAMP.copy()
    assert np.array_equal(augmented(rng(1), RAMP, 40), augmented(rng(1), RAMP, 40))
    assert not np.array_equal(augmented(rng(1), RAMP, 40), augmented(rng(2), RAMP, 40))
    assert np.array_equal(RAMP, before)


def test_colours_stay_within_their_amount():
    grey = np.full((4, 4, 3), 100, np.uint8)  # has neither contrast nor saturation
    means = [recoloured(rng(seed), grey, 0.2).mean() for seed in range(300)]
    assert 80 <= min(means) < 85
    assert 115 < max(means) <= 120
    assert np.array_equal(recoloured(rng(), RAMP, 0.0), RAMP)
    noise = rng().integers(0, 256, (9, 9, 3), dtype=np.uint8)
    assert not np.array_equal(recoloured(rng(), noise, 0.3), noise)
