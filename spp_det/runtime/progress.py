"""The progress of a loop: a bar on the terminal (stderr), and lines in the log."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Iterator, Sized
from datetime import timedelta
from typing import Any, TypeVar

from rich import progress as bars
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from spp_det.errors import one_line

T = TypeVar("T")


class Terminal(Console):
    """The one place through which texts reach a terminal, with every character escaped that could control it:
    names of classes, files and stages may be anybody's.

    It ignores a closed terminal and a full disk, so that no message ends the work.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """The parts of what is printed; rich's own controls, such as colours, are no part of their texts."""
        for part in super().render(renderable, options):
            lines = part.text.split("\n")
            yield part if part.control else part._replace(text="\n".join(map(one_line, lines)))

    def __exit__(self, *error: Any) -> None:
        try:
            super().__exit__(*error)
        except OSError:
            del self._buffer[:]

    def on_broken_pipe(self) -> None:
        """Print nothing from now on: rich would end the process."""
        self.quiet = True


console = Terminal(stderr=True)
logger = logging.getLogger(__name__)
LOG_EVERY = 30.0  # seconds


class _Rate(bars.ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: bars.Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f} {self.unit}/s")


def track(
    items: Iterable[T], title: str, total: int | None = None, unit: str = "images", done: int = 0
) -> Iterator[T]:
    """Yield the items and show the progress: on a terminal as a bar, in the log every half minute as
    ``title: 120 of 385 images, 2.1 images/s, 0:02:06 left``. Of several processes (``torchrun``) the first
    one alone shows a bar.

    Args:
        total: the number of items; None: their length, if they have any.
        unit: the plural of what an item is.
        done: the number of items of ``total`` that were done before the first of these items.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    columns = (
        *(bars.TextColumn("{task.description:<24}"), bars.BarColumn(), bars.MofNCompleteColumn()),
        *(_Rate(unit), bars.TimeElapsedColumn(), bars.TimeRemainingColumn()),
    )
    silent = not console.is_terminal or os.environ.get("RANK", "0") != "0"
    with bars.Progress(*columns, console=console, disable=silent) as progress:
        shown = progress.track(items, total=total, completed=done, description=title)
        yield from _logged(shown, title, total, unit, done)


def _logged(items: Iterable[T], title: str, total: int | None, unit: str, done: int) -> Iterator[T]:
    """Yield the items, and write a line to the log whenever `LOG_EVERY` seconds have passed."""
    start = last = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LOG_EVERY:
            last, rate = now, count / (now - start)
            text = f"{title}: {done + count} {unit}, {rate:.3g} {unit}/s"
            if total is not None:
                left = timedelta(seconds=round((total - done - count) / rate))
                text = f"{title}: {done + count} of {total} {unit}, {rate:.3g} {unit}/s, {left} left"
            logger.info(text)
