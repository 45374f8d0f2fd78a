"""``spp-det download``: fetch Pascal VOC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from spp_det.commands.terminal import say


def download(
    folder: Annotated[Path, typer.Argument(help="Where VOCdevkit is to lie.")],
    splits: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SPLIT]...",
            help="VOC2007:trainval, VOC2007:test, VOC2012:trainval; the first two if none.",
        ),
    ] = None,
) -> None:
    """Fetch Pascal VOC through torchvision; what is there already is left alone."""
    from spp_det.data.download import DEVKIT, download_voc

    download_voc(folder, splits or ["VOC2007:trainval", "VOC2007:test"])
    say(f"[bold green]there[/]: {escape(str(folder / DEVKIT))}")
