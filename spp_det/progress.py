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
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s")


def track(
    items: Iterable[T], title: str, total: int | None = None, unit: str = "images", done: int = 0
) -> Iterator[T]:
    """Pass the items on and show how far it got. Silent where stderr is no terminal, and in all but the first
    of several processes (``torchrun``).

    Args:
        unit: what one item is.
        done: how many of ``total`` were done before the first of these.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        *(TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), _Rate(unit)),
        *(TimeElapsedColumn(), TimeRemainingColumn()),
    )
    silent = not console.is_terminal or os.environ.get("RANK", "0") != "0"
    with Progress(*columns, console=console, disable=silent) as progress:
        yield from progress.track(items, total=total, completed=done, description=title)
