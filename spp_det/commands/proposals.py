"""What ``spp-det proposals`` does: the windows of a data set, into a file or held against its objects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from spp_det.boxes import Boxes
from spp_det.config.settings import Proposals
from spp_det.data.bounds import fit_record
from spp_det.data.records import Dataset, Record
from spp_det.errors import UserError
from spp_det.evaluation.recall import Covered, evaluate_recall
from spp_det.evaluation.results import or_none
from spp_det.images import Skipped, UnreadableImageError, skipped
from spp_det.proposals.files import check_writable, write_proposals
from spp_det.proposals.source import FileWindows, WindowSource, proposals_of
from spp_det.runtime.cache import Cache
from spp_det.runtime.progress import track
from spp_det.runtime.threads import ahead, cores

logger = logging.getLogger(__name__)


@dataclass
class Proposed:
    """The windows of the readable images of a data set.

    Attributes:
        records: of these images, fitted to their true sizes.
        windows: ``[N, 4]`` of each.
        seconds: what each search took that was not in the cache.
        skipped: the files that could not be read, and why.
    """

    records: list[Record] = field(default_factory=list)
    windows: list[Boxes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def chosen(
    modes: Sequence[str], max_side: int | None, file: Path | None, edge_model: Path | None
) -> list[Proposals]:
    """The settings of each mode, each once; without modes those that the files are for, or else ``fast``.

    Raises UserError for an unknown mode, one without its file, and a file without its mode.
    """
    files = {"file": file, "edgeboxes": edge_model}
    modes = (
        list(dict.fromkeys(modes)) or [mode for mode, path in files.items() if path is not None] or ["fast"]
    )
    for mode, option in (("file", "--proposals"), ("edgeboxes", "--edge-model")):
        if (mode in modes) != (files[mode] is not None):
            raise UserError(f"--mode {mode} and {option} FILE go together: give both or neither")
    return [
        proposals_of(mode, max_side, *(path if mode == of else None for of, path in files.items()))
        for mode in modes
    ]


def propose(
    dataset: Dataset, search: Proposals, cache: Cache | None = None, workers: int = 0, strict: bool = False
) -> Proposed:
    """The windows of every image of a data set, one image a core.

    An image that cannot be read is left out with a warning, or raised as UserError where ``strict``.
    """
    source = WindowSource(search)
    source.check((record.path, record.image_id) for record in dataset.records)

    def found_in(record: Record) -> FileWindows | UnreadableImageError:
        try:
            return source.windows_of_file(record.path, record.image_id, cache)
        except UnreadableImageError as error:
            return error

    proposed = Proposed()
    results = ahead(found_in, dataset.records, workers or cores())
    title = f"proposals ({search.mode})"
    for record, found in zip(dataset.records, track(results, title, len(dataset)), strict=True):
        if isinstance(found, UnreadableImageError):
            if strict:
                raise found
            logger.warning("skipped: %s", found)
            proposed.skipped.append(skipped(record.path, found))
            continue
        proposed.records.append(fit_record(record, *found.size))
        proposed.windows.append(found.boxes)
        if found.seconds is not None:
            proposed.seconds.append(found.seconds)
    return proposed


def write_windows(
    dataset: Dataset,
    search: Proposals,
    out: Path,
    cache: Cache | None = None,
    workers: int = 0,
    strict: bool = False,
) -> Proposed:
    """Write the windows of a data set to a ``.npz`` or ``.json`` that ``proposals.file`` reads."""
    check_writable(out)
    proposed = propose(dataset, search, cache, workers, strict)
    ids = [record.image_id for record in proposed.records]
    write_proposals(out, dict(zip(ids, proposed.windows, strict=True)))
    return proposed


def recall_figures(
    dataset: Dataset,
    searches: Sequence[Proposals],
    cache: Cache | None = None,
    workers: int = 0,
    strict: bool = False,
) -> dict[str, Any]:
    """Recall of each way of proposing windows, as a tree for JSON: fractions of 1, None where undefined.

    ``seconds`` is the mean of the searches that were not in the cache, each on one core while its
    neighbours search other images. ``images`` and ``skipped`` count what could and could not be read.
    """
    modes: dict[str, Any] = {}
    images, left_out = 0, list[Skipped]()
    for search in searches:
        proposed = propose(dataset, search, cache, workers, strict)
        images, left_out = len(proposed.records), proposed.skipped
        result = evaluate_recall(replace(dataset, records=proposed.records, coco_ids=()), proposed.windows)
        modes[search.mode] = {
            **_tree(result.overall),
            "MABO": or_none(result.mabo),
            "windows": or_none(result.windows),
            "seconds": float(np.mean(proposed.seconds)) if proposed.seconds else None,
            "per_class": {name: _tree(covered) for name, covered in result.per_class.items()},
        }
    return {"images": images, "skipped": left_out, "modes": modes}


def _tree(covered: Covered) -> dict[str, Any]:
    recall = {f"{threshold:g}": or_none(value) for threshold, value in covered.recall.items()}
    return {"objects": covered.objects, "recall": recall, "ABO": or_none(covered.abo)}
