"""``spp-det convert``: write a data set in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say


def convert(
    source: Annotated[Path, typer.Argument(metavar="IN", help="A Pascal VOC, COCO or YOLO data set.")],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format_: Annotated[Literal["voc", "coco", "yolo"], typer.Option("--format", help="What to write.")],
    follow_links: options.FollowLinks = False,
) -> None:
    """Write a data set with its photos and splits in another format.

    Beside VOC all tools know the splits train, val and test alone: a trainval becomes a train there.
    """
    from spp_det.data.convert import write_dataset
    from spp_det.data.dataset import CALLED, read_all

    found, splits = read_all(source, follow_links=follow_links)
    if format_ != "voc" and "trainval" in splits and "train" not in splits:
        splits["train"] = splits.pop("trainval")
    if "all" in splits:
        splits["train"] = splits.pop("all")
    write_dataset(splits, out, format_)
    counts = ", ".join(f"{name} ({len(dataset)} photos)" for name, dataset in splits.items())
    say(f"[bold green]wrote[/] {CALLED[found]} as {CALLED[format_]}: {escape(str(out))}: {escape(counts)}")
