"""``spp-det convert``: write a data set in another format."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from spp_det.commands import options
from spp_det.commands.terminal import say

if TYPE_CHECKING:
    from spp_det.data.records import Dataset


def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A Pascal VOC, COCO or YOLO data set; or CVAT's XML or Label Studio's JSON."
        ),
    ],
    out: Annotated[Path, typer.Argument(help="A new folder.")],
    format_: Annotated[Literal["voc", "coco", "yolo"], typer.Option("--format", help="What to write.")],
    photos: Annotated[
        Path | None, typer.Option(help="Where the photos of that XML or JSON lie, if not beside it.")
    ] = None,
    follow_links: options.FollowLinks = False,
) -> None:
    """Write a data set with its photos and splits in another format.

    CVAT's XML ("CVAT for images 1.1") and Label Studio's JSON are what these tools export when pre-labels of
    detect --format were corrected; --format voc then makes a data set to train on. Beside VOC all tools know
    the splits train, val and test alone: a trainval becomes a train there.
    """
    from spp_det.data.convert import write_dataset
    from spp_det.data.dataset import CALLED, read_all
    from spp_det.errors import UserError

    if source.is_file():
        called, dataset = _exported(source, photos or source.parent, follow_links)
        splits = {"all": dataset}
    elif photos is not None:
        raise UserError(f"--photos {photos} is of an exported file, but {source} is none")
    else:
        found, splits = read_all(source, follow_links=follow_links)
        called = CALLED[found]
    if format_ != "voc" and "trainval" in splits and "train" not in splits:
        splits["train"] = splits.pop("trainval")
    if "all" in splits:
        splits["train"] = splits.pop("all")
    write_dataset(splits, out, format_)
    counts = ", ".join(f"{name} ({len(dataset)} photos)" for name, dataset in splits.items())
    say(f"[bold green]wrote[/] {called} as {CALLED[format_]}: {escape(str(out))}: {escape(counts)}")


def _exported(source: Path, photos: Path, follow_links: bool) -> tuple[str, Dataset]:
    """What an annotation tool exported as one file, and what its format is called."""
    from spp_det.data.coco_file import load_json
    from spp_det.data.cvat_xml import read_cvat
    from spp_det.data.dataset import CALLED, read_split
    from spp_det.data.label_studio import read_label_studio
    from spp_det.errors import UserError

    if not photos.is_dir():
        raise UserError(f"--photos {photos}: no such folder")
    if source.suffix.lower() == ".xml":
        return "CVAT", read_cvat(source, photos, follow_links=follow_links)
    if source.suffix.lower() != ".json":
        raise UserError(f"{source}: neither a data set's folder, nor CVAT's XML, nor Label Studio's JSON")
    if isinstance(load_json(source), list):
        return "Label Studio", read_label_studio(source, photos, follow_links=follow_links)
    split = read_split("coco", photos, str(source), images=photos, follow_links=follow_links)
    return CALLED["coco"], split.dataset
