"""A command's process: how it treats the machine, how it ends, and where its log goes. Signals, exit codes,
one line for every mistake."""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.markup import escape

from spp_det.commands.terminal import say
from spp_det.errors import (
    NOT_ENOUGH_MEMORY,
    OthersLostError,
    UserError,
    is_out_of_memory,
    one_line,
)

GRACE = 5.0  # seconds for threads and processes to end in; nothing on disk needs them to
FIRST = os.environ.get("RANK", "0") == "0"  # of several processes (torchrun), or the only one
_goes_on = ""  # how the command goes on after an interruption; empty where it does not
KEPT_BLOCK, KEPT_FREE = 32 * 2**20, 64 * 2**20  # bytes; glibc takes no more for the first
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's numbers of these settings
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # click's, or that of typer's own copy of click


def run_app(app: typer.Typer) -> NoReturn:
    """Run the command that ``sys.argv`` names and end the process: with the command's exit code, with 2 and
    one line where the user can mend what is wrong, or with 128 and a signal's number."""
    goes_on("")
    tune_process()
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a full disk under the log is no reason for a traceback
    logging.getLogger().addHandler(_ToTerminal())
    logging.getLogger("spp_det").setLevel(logging.INFO if FIRST else logging.ERROR)
    if not FIRST:  # it says only what it alone saw, of files
        for reader in ("spp_det.images", "spp_det.pretraining.class_images"):
            logging.getLogger(reader).setLevel(logging.WARNING)
    signals, arriving = socket.socketpair()
    arriving.setblocking(False)
    signal.set_wakeup_fd(arriving.detach())
    threading.Thread(target=_end_by_force, args=[signals], daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    try:
        sys.exit(app(standalone_mode=False, prog_name="spp-det"))
    except SystemExit as ended:  # of a signal, amid work that several processes share
        _end(ended.code)
    except OthersLostError as error:
        _refuse("; ".join(filter(None, (str(error), _goes_on))))
    except UserError as error:
        _refuse(str(error))
    except UsageError as error:
        _refuse(_explain(error))
    except OSError as error:
        if error.strerror is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
            raise
        _refuse(f"not enough memory: {NOT_ENOUGH_MEMORY}")


def tune_process() -> None:
    """Set, before torch is imported, what its and OpenCV's work on several threads gains by. What the
    environment says of either goes first.

    - After each operation torch's OpenMP threads wait for the next one by spinning, for milliseconds, on
      cores that the next stage, on threads of its own, has work for.
    - Selective search allocates and frees a mask of the image for every region. glibc gives each back to the
      system, which then clears the same pages a hundred thousand times an image. The price is `KEPT_FREE` a
      thread that stays with the process.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    said = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform == "linux" and not said:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
            mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


def goes_on(how: str) -> None:
    """Note, for who interrupts the command, how it goes on: ``the same command goes on from ...``."""
    global _goes_on
    _goes_on = how


def log_to(path: Path) -> None:
    """Keep a log with times beside what the terminal shows, a line for each message; of several processes the
    first one does."""
    if not FIRST:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


class _OneLine(logging.Formatter):
    """Names with line breaks in them make no lines of their own."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _ToTerminal(logging.Handler):
    """Log lines above a progress bar instead of through it. No line is worth the end of the work."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: logging.LogRecord) -> None:
        from spp_det.runtime.progress import console

        if record.name == "spp_det.runtime.progress" and console.is_terminal:
            return  # the bar says so
        prefix = (
            f"[yellow]{record.levelname.lower()}:[/] " if record.levelno >= logging.WARNING else "[dim]·[/] "
        )
        say(prefix + escape(one_line(record.getMessage())))


def _explain(error: Any) -> str:
    """A mistake in the command's words as one line."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    return message if error.ctx is None else f"{message}; see {error.ctx.command_path} --help"


def _refuse(reason: str) -> NoReturn:
    """End with one line, also where several processes all find the same wrong: torchrun ends the others when
    the first one has said so. What it has not seen comes a little later."""
    if not FIRST:
        time.sleep(GRACE)
    line = one_line(reason)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            about = ("spp_det", logging.ERROR, __file__, 0, "error: %s", (line,), None)
            handler.handle(logging.LogRecord(*about))
    with suppress(OSError, ValueError):  # the terminal is gone
        print(f"error: {line}", file=sys.stderr, flush=True)
    _end(2)


def _end(code: Any) -> NoReturn:
    """End the process, also where it has a part in a group that is broken."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # Python would try again at its end, and turn that into its exit code
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from spp_det.runtime import distributed

        distributed.leave(code)
    sys.exit(code)


def _leave(number: int, _frame: object) -> None:
    """End by an exception, so that files half-written are removed and the terminal is as it was. What was
    written is whole either way."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, lambda *_: None)  # `_end_by_force` has its own ear
    how = "interrupted" if number == signal.SIGINT else "terminated"
    logging.getLogger("spp_det").info("; ".join(filter(None, (how, _goes_on))))
    raise SystemExit(128 + number)


def _end_by_force(signals: socket.socket) -> NoReturn:
    """End the process when `GRACE` is over after a signal, or at the next one, whatever threads are at.

    ``signals`` gets a byte a signal, at once. `_leave` has to wait for the main thread to come back to
    Python, from a long computation, or from waiting for a process that is lost.
    """
    number = signals.recv(1)[0]
    select.select([signals], [], [], GRACE)
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # the progress bar has hidden the cursor
    os._exit(128 + number)
