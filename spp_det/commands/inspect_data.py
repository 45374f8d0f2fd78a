"""``spp-det inspect-data``: a look at the data of a training, on the terminal, as JSON and as a page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say, show

if TYPE_CHECKING:
    from spp_det.config.settings import Config, Data
    from spp_det.data.dataset import Format
    from spp_det.data.inspection import Finding, Look
    from spp_det.data.records import Dataset


def inspect_data(
    config: options.Recipe,
    overrides: options.Overrides = None,
    sample: Annotated[
        int, typer.Option(min=0, help="Photos to search for windows in; 0 leaves the recall out.")
    ] = 50,
    json_out: Annotated[Path | None, typer.Option("--json", help="Write what was found there.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a page that shows the odd photos there.")] = None,
    workers: options.Workers = 0,
) -> None:
    """Look at the data of a training, named as in train: counts, sizes, recall of the windows, odd photos.

    Every split of the data set is looked at where the recipe names none.
    """
    from spp_det.config.file import load_config
    from spp_det.report.data_page import write_data_page
    from spp_det.report.tables import data_tables
    from spp_det.runtime.whole_files import write_json

    inspection = look_into(load_config(config, overrides or []), sample, workers)
    figures = inspection.figures()
    if json_out is not None:
        write_json(json_out, figures)
    if page is not None:
        write_data_page(page, figures, inspection.look.findings, inspection.look.classes)
    show(*data_tables(figures))
    say("side: of a square of an object's area, in pixels")
    if recall := figures["recall"]:
        say(f"covered: by a window ({recall['mode']}) with IoU .5, in a sample of {recall['photos']} photos")
    for finding in inspection.look.findings:
        say(f"[yellow]{finding.kind}:[/] {escape(finding.text)}")
    if not inspection.look.findings:
        say("nothing odd was found")
    for written in filter(None, (json_out, page)):
        say(f"[bold green]wrote[/] {escape(str(written))}")


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a look at the data of a training found.

    Attributes:
        root: the folder of the data, and ``format``, that of its annotations.
        look: counts and findings, that of the windows among them.
        recall: of the windows by class and size, as a tree for JSON; None where none were searched for.
    """

    root: Path
    format: Format
    look: Look
    recall: dict[str, Any] | None

    def figures(self) -> dict[str, Any]:
        """Everything as a tree for JSON: counts by split and class, sizes, recall, findings with photos."""
        from spp_det.data.classes import objects_by_class
        from spp_det.data.inspection import sizes_by_class

        splits = {
            name: {
                "photos": len(part),
                "without_objects": sum(not len(record) for record in part.records),
                "objects": objects_by_class(part),
            }
            for name, part in self.look.splits.items()
        }
        return {
            "root": str(self.root),
            "format": self.format,
            "splits": splits,
            "sizes": sizes_by_class(self.look),
            "recall": self.recall,
            "findings": [_finding_tree(finding) for finding in self.look.findings],
        }


def look_into(config: Config, sample: int = 50, workers: int = 0) -> Inspection:
    """Look at the data that a configuration names, and search for windows in a sample of its photos.

    Every photo is decoded once, to find copies. Nothing is written but the windows, where the settings name
    a cache. Raises UserError as the readers do.
    """
    from spp_det.data.duplicates import same_bytes, same_picture
    from spp_det.data.inspection import look_at

    format_, splits = read_for_a_look(config.data, config.seed)
    paths = [record.path for part in splits.values() for record in part.records]
    alike, damaged = same_picture(paths)
    look = look_at(splits, [*same_bytes(paths), *alike], damaged)
    if not sample:
        return Inspection(config.data.root, format_, look, None)
    recall, findings = _recall(config, look, sample, workers)
    return Inspection(config.data.root, format_, replace(look, findings=(*findings, *look.findings)), recall)


def read_for_a_look(data: Data, seed: int) -> tuple[Format, dict[str, Dataset]]:
    """The data that a training learns from and is scored on, by split, the former first.

    Where neither is named, all splits of the data set. Sizes that differ are no error here. Raises UserError
    as the readers do.
    """
    from spp_det.config.settings import AUTO
    from spp_det.data.classes import choose_classes
    from spp_det.data.dataset import HELD_OUT, find_data, read_all, read_split
    from spp_det.data.held_out import held_out, part

    place = find_data(data)
    follow = data.follow_links
    learnt = ", ".join(Path(name).name for name in place.train or ("all",))
    if data.train == AUTO and place.test is None:
        _, splits = read_all(data.root, follow_links=follow)
        splits = dict(sorted(splits.items(), key=lambda item: item[0] not in ("trainval", "train", "all")))
    else:
        splits = {learnt: read_split(place.format, data.root, place.train, follow_links=follow).dataset}
        if place.test == HELD_OUT:
            whole = splits[learnt]
            ids = held_out([record.image_id for record in whole.records], seed)
            splits = {
                "learnt from": part(whole, ids, inside=False),
                "held out": part(whole, ids, inside=True),
            }
        elif place.test is not None:
            test = read_split(place.format, data.root, place.test, follow_links=follow).dataset
            splits[Path(place.test).name] = test
    if data.classes is not None:
        splits = {
            name: choose_classes(each, data.classes, f"{data.root} {name}", needed=False)
            for name, each in splits.items()
        }
    return place.format, splits


def _recall(config: Config, look: Look, sample: int, workers: int) -> tuple[dict[str, Any], list[Finding]]:
    """Recall of the configured windows in a sample, and a finding where it is low."""
    from spp_det.commands.proposals import covered_figures, propose
    from spp_det.data.inspection import choose_sample
    from spp_det.data.records import Dataset
    from spp_det.evaluation.coverage import coverage, low_recall
    from spp_det.evaluation.undefined import as_json
    from spp_det.runtime.cache import Cache

    places = choose_sample(look, sample, config.seed)
    split_of = {record.path: split for split, record in places}
    cache = None if config.runtime.cache is None else Cache(config.runtime.cache)
    mode = config.proposals.mode
    proposed = propose(
        Dataset(look.classes, [record for _, record in places]), config.proposals, cache, workers
    )
    readable = [(split_of[record.path], record) for record in proposed.records]
    found = coverage(readable, proposed.windows, look.classes)
    figures = {
        "mode": mode,
        "photos": len(readable),
        "skipped": proposed.skipped,
        "windows": as_json(found.windows),
        **covered_figures(found.overall),
        "per_class": {name: covered_figures(one) for name, one in found.per_class.items()},
        "by_size": {name: covered_figures(one) for name, one in found.by_size.items()},
    }
    return figures, low_recall(found, mode, readable, proposed.windows, look.classes)


def _finding_tree(finding: Finding) -> dict[str, Any]:
    photos = [
        {
            "split": seen.split,
            "image": seen.record.image_id,
            "file": str(seen.record.path),
            "what": seen.what,
            "boxes": [{"name": name, "box": list(box)} for name, box in seen.boxes],
        }
        for seen in finding.sightings
    ]
    return {"kind": finding.kind, "text": finding.text, "photos": photos}
