"""Photos that are held out of a training where a data set has no split lists of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b

from spp_det.data.records import Dataset

SHARE = 0.2  # of the labelled photos


def held_out(names: Sequence[str], seed: int, share: float = SHARE) -> frozenset[str]:
    """The names of the photos to hold out: a share of all, at least one of two or more.

    The choice rests on the names and the seed alone, neither on their order nor on the machine: names are
    ranked by a hash, so that a photo that is added later moves few others.

    >>> sorted(held_out([f"{number}.jpg" for number in range(10)], seed=0))
    ['4.jpg', '8.jpg']
    """
    ranked = sorted(set(names), key=lambda name: (_hash(name, seed), name))
    count = max(1, round(len(ranked) * share)) if len(ranked) > 1 else 0
    return frozenset(ranked[:count])


def _hash(name: str, seed: int) -> bytes:
    return blake2b(f"{seed}:{name}".encode(errors="surrogateescape"), digest_size=16).digest()


def part(dataset: Dataset, names: frozenset[str], inside: bool) -> Dataset:
    """The records whose image id is among the names, or, not ``inside``, all others, in their order."""
    kept = [index for index, record in enumerate(dataset.records) if (record.image_id in names) == inside]
    return replace(
        dataset,
        records=[dataset.records[index] for index in kept],
        coco_ids=tuple(dataset.coco_ids[index] for index in kept),
    )
