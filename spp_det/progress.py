"""Progress bars on stderr, for whoever waits."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

T = TypeVar("T")

console = Console(stderr=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} images/s")


def track(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """Pass the items on, one image each, and show how far it got. Silent where stderr is no terminal, and in
    all but the first of several processes (``torchrun``).
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        *(TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), _Rate()),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    silent = not console.is_terminal or os.environ.get("RANK", "0") != "0"
    with Progress(*columns, console=console, disable=silent) as progress:
        yield from progress.track(items, total=total, description=title)
