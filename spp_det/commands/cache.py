"""``spp-det cache``: show what a run's cache holds, or remove some of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from spp_det.commands.terminal import say, show
from spp_det.errors import UserError


def cache(
    folder: Annotated[Path, typer.Argument(help="A run's cache folder, OUTPUT/cache.")],
    prune: Annotated[
        str | None, typer.Option(metavar="STAGE", help="Remove that of a stage, or all.")
    ] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="Only what was not used for so long.")
    ] = None,
) -> None:
    """Show what a cache holds, or remove some of it; a run that misses something computes it again."""
    from spp_det.report.tables import cache_table
    from spp_det.runtime.cache import Cache

    kept = Cache(folder)
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}")
    stages = kept.stages()
    if prune is None:
        if older_than is not None:
            raise UserError("--older-than goes with --prune STAGE or --prune all")
    elif prune != "all" and prune not in stages:
        raise UserError(f"{folder} holds nothing of {prune!r}; it has {', '.join(stages) or 'no artefact'}")
    else:
        for stage in stages if prune == "all" else [prune]:
            gone = kept.prune(stage, older_than or 0.0)
            say(f"removed {gone.artefacts} artefacts of {escape(stage)}, {gone.bytes / 2**20:.1f} MiB")
    show(cache_table({stage: kept.usage(stage) for stage in stages}))
