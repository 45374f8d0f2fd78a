"""``spp-det proposals``: write the windows of a data set to a file, or report their recall."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say, say_skipped, show
from spp_det.errors import UserError

if TYPE_CHECKING:
    from spp_det.boxes import Boxes
    from spp_det.config.settings import Proposals
    from spp_det.data.records import Dataset, Record
    from spp_det.evaluation.recall import Covered
    from spp_det.images import Skipped, UnreadableImageError
    from spp_det.proposals.source import FileWindows
    from spp_det.runtime.cache import Cache

logger = logging.getLogger(__name__)


def proposals(
    voc: Annotated[Path, typer.Option(help="A Pascal VOC folder.")],
    split: Annotated[str, typer.Option(help="The VOC split.")] = "test",
    recall: Annotated[
        bool, typer.Option("--recall", help="Hold the windows against the objects instead of writing them.")
    ] = False,
    mode: Annotated[
        list[str] | None,
        typer.Option(help="fast, paper, quality, edgeboxes or file; repeatable with --recall."),
    ] = None,
    max_side: Annotated[
        int | None, typer.Option(help="Search in copies shrunk to this longer side in pixels.")
    ] = None,
    file: options.ProposalFile = None,
    edge_model: options.EdgeModel = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the windows, .npz or .json; with --recall for its figures, .json."),
    ] = None,
    cache: Annotated[Path | None, typer.Option(help="A run's cache folder, to read from and add to.")] = None,
    workers: options.Workers = 0,
    strict: options.Strict = False,
    follow_links: options.FollowLinks = False,
) -> None:
    """Write the windows of a data set to a file, or report how many of its objects they cover."""
    from spp_det.data.voc import read_voc
    from spp_det.report.tables import recall_table
    from spp_det.runtime.cache import Cache
    from spp_det.runtime.whole_files import write_json

    searches = chosen(mode or (), max_side, file, edge_model)
    kept = None if cache is None else Cache(cache)
    if recall:
        if out is not None and out.suffix.lower() != ".json":
            raise UserError(f"{out}: the figures of --recall are written to a .json file")
        figures = recall_figures(
            read_voc(voc, split, follow_links=follow_links), searches, kept, workers, strict
        )
        show(recall_table(figures))
        say_skipped(figures["skipped"])
        if out is not None:
            write_json(out, figures)
            say(f"figures: {escape(str(out))}")
        return
    if out is None:
        raise UserError("say where to write the windows, --out FILE.npz or .json, or ask for --recall")
    if len(searches) != 1:
        raise UserError("a file holds the windows of one --mode; several are for --recall")
    dataset = read_voc(voc, split, follow_links=follow_links)
    done = write_windows(dataset, searches[0], out, kept, workers, strict)
    say_skipped(done.skipped)
    windows = sum(map(len, done.windows))
    say(f"[bold green]wrote[/] {windows} windows of {len(done.records)} images: {escape(str(out))}")


@dataclass
class Proposed:
    """The windows of the readable images of a data set.

    Attributes:
        records: the annotations of these images, fitted to their true sizes.
        windows: float32 ``[N, 4]`` in pixels of each image.
        seconds: the time of each search whose windows were not in the cache.
        skipped: the files that could not be read, and why.
    """

    records: list[Record] = field(default_factory=list)
    windows: list[Boxes] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def chosen(
    modes: Sequence[str], max_side: int | None, file: Path | None, edge_model: Path | None
) -> list[Proposals]:
    """The settings of each mode, without duplicates. Without modes the given files choose, or else ``fast``.

    Raises UserError for an unknown mode, a mode without its file, and a file without its mode.
    """
    from spp_det.proposals.source import proposals_of

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

    An unreadable image is left out with a warning, or raised as UserError where ``strict``.
    """
    from spp_det.data.bounds import fit_record
    from spp_det.images import UnreadableImageError, skipped
    from spp_det.proposals.source import WindowSource
    from spp_det.runtime.progress import track
    from spp_det.runtime.threads import ahead, cores

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
    from spp_det.proposals.files import check_writable, write_proposals

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
    """Recall of each search, as a tree for JSON: fractions of 1, None where undefined.

    ``seconds`` is the mean time of the searches whose windows were not in the cache. Each search has one core
    while other cores search other images. ``images`` counts the readable images, ``skipped`` names the rest.
    """
    import numpy as np

    from spp_det.evaluation.recall import evaluate_recall
    from spp_det.evaluation.undefined import as_json

    modes: dict[str, Any] = {}
    images = 0
    left_out: list[Skipped] = []
    for search in searches:
        proposed = propose(dataset, search, cache, workers, strict)
        images, left_out = len(proposed.records), proposed.skipped
        result = evaluate_recall(replace(dataset, records=proposed.records, coco_ids=()), proposed.windows)
        modes[search.mode] = {
            **covered_figures(result.overall),
            "MABO": as_json(result.mabo),
            "windows": as_json(result.windows),
            "seconds": float(np.mean(proposed.seconds)) if proposed.seconds else None,
            "per_class": {name: covered_figures(covered) for name, covered in result.per_class.items()},
        }
    return {"images": images, "skipped": left_out, "modes": modes}


def covered_figures(covered: Covered) -> dict[str, Any]:
    """Recall by threshold and average best overlap of some objects, as a tree for JSON."""
    from spp_det.evaluation.undefined import as_json

    recall = {f"{threshold:g}": as_json(value) for threshold, value in covered.recall.items()}
    return {"objects": covered.objects, "recall": recall, "ABO": as_json(covered.abo)}
