"""The process of a command: allocator and threads, signals, exit codes, one line for a mistake, the log."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import select
import signal
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.markup import escape

from spp_det.commands.terminal import ignore_stdout, replace_unknown_characters, say
from spp_det.errors import NOT_ENOUGH_MEMORY, OthersLostError, UserError, is_out_of_memory, one_line
from spp_det.runtime.files import NO_LINK, open_regular

FROM_CACHE = "the same command goes on from what the cache holds"
GRACE = 5.0  # seconds for threads and processes to end in; nothing on disk needs them to
FIRST = os.environ.get("RANK", "0") == "0"  # whether this is the first or only process (torchrun)
_goes_on = ""  # how the command goes on after an interruption; empty for a command that does not
KEPT_BLOCK, KEPT_FREE = 32 * 2**20, 64 * 2**20  # bytes; 32 MiB is glibc's limit for the first
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's numbers of these settings
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # of click, or of typer's own copy of click


def run_app(app: typer.Typer) -> NoReturn:
    """Run the command that ``sys.argv`` names and end the process. The exit code is the command's, 2 after
    one line about a mistake that the user can mend, or 128 plus a signal's number."""
    goes_on("")
    os.environ["PYTHONSAFEPATH"] = "1"  # no child imports what lies in the current folder
    tune_process()
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # no traceback where the disk under the log is full
    logging.getLogger().addHandler(_ToTerminal())
    logging.getLogger().addHandler(_Early())
    logging.getLogger("spp_det").setLevel(logging.INFO if FIRST else logging.ERROR)
    if not FIRST:  # truncated files, which this process alone has read
        logging.getLogger("spp_det.images").setLevel(logging.WARNING)
    signals, arriving = socket.socketpair()
    arriving.setblocking(False)
    signal.set_wakeup_fd(arriving.detach())
    threading.Thread(target=_end_by_force, args=[signals], daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave)
    replace_unknown_characters()
    sys.argv[1:] = map(_with_home, sys.argv[1:])
    try:
        sys.exit(app(standalone_mode=False, prog_name="spp-det"))
    except SystemExit as ended:  # raised by `_leave`, perhaps amid work that several processes share
        _end(ended.code)
    except OthersLostError as error:
        _refuse("; ".join(filter(None, (str(error), _goes_on))))
    except UserError as error:
        _refuse(str(error))
    except UsageError as error:
        _refuse(_explain(error))
    except BrokenPipeError:  # the reader of stdout has seen enough
        ignore_stdout()
        _end(0)
    except OSError as error:
        if error.strerror is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        _refuse(f"not enough memory: {NOT_ENOUGH_MEMORY}")


def _with_home(argument: str) -> str:
    """An argument with the home folder for ``~/``, which shells leave alone in quotes and behind a ``=``."""
    option, equals, value = argument.rpartition("=") if argument.startswith("--") else ("", "", argument)
    return option + equals + os.path.expanduser(value) if value.startswith("~/") else argument  # noqa: PTH111


def tune_process() -> None:
    """Set, before torch is imported, two things that make torch's and OpenCV's threads faster. Environment
    variables about either have precedence.

    - After each operation torch's OpenMP threads wait for the next one by spinning, for milliseconds, on
      cores for which the threads of the next stage have work.
    - Selective search works in arrays of the size of the image, which it allocates and frees for each colour
      space. glibc gives each back to the system, which then clears the same pages again and again. Now the
      process keeps up to `KEPT_FREE` of free memory a thread instead.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    said = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if sys.platform == "linux" and not said:
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has no mallopt
        if mallopt is not None:
            mallopt(M_MMAP_THRESHOLD, KEPT_BLOCK)
            mallopt(M_TRIM_THRESHOLD, KEPT_FREE)


def goes_on(how: str) -> None:
    """Note the line that an interruption prints: ``the same command goes on from ...``."""
    global _goes_on
    _goes_on = how


def log_to(path: Path) -> None:
    """Write all messages to a file, too, a line each, with times: those of before as well.

    Of several processes the first one does.
    """
    if not FIRST:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path)
    handler.setFormatter(_OneLine("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for early in [each for each in logging.getLogger().handlers if isinstance(each, _Early)]:
        logging.getLogger().removeHandler(early)
        for record in early.records:
            handler.handle(record)
    logging.getLogger().addHandler(handler)


class _LogFile(logging.FileHandler):
    """Adds to a regular file: a link there would lead to a file of somebody's choice."""

    def _open(self) -> io.TextIOWrapper:
        file = open_regular(Path(self.baseFilename), os.O_WRONLY | os.O_APPEND | os.O_CREAT | NO_LINK)
        return io.TextIOWrapper(file, encoding="utf-8")


class _Early(logging.Handler):
    """Keeps the messages that come before a command has its log file."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=1000)

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class _OneLine(logging.Formatter):
    """Escapes line breaks in a message, such as those of a file's name."""

    def format(self, record: logging.LogRecord) -> str:
        return one_line(super().format(record))


class _ToTerminal(logging.Handler):
    """Prints log lines above a progress bar instead of through it. A failed print does not end the work."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: logging.LogRecord) -> None:
        from spp_det.runtime.progress import console

        if record.name == "spp_det.runtime.progress" and console.is_terminal:
            return  # the progress bar shows it
        prefix = (
            f"[yellow]{record.levelname.lower()}:[/] " if record.levelno >= logging.WARNING else "[dim]·[/] "
        )
        say(prefix + escape(record.getMessage()))


def _explain(error: Any) -> str:
    """The message about a wrong command line, as one line."""
    message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    return message if error.ctx is None else f"{message}; see {error.ctx.command_path} --help"


def _refuse(reason: str) -> NoReturn:
    """End with one line, also where several processes find the same mistake: the first process prints at
    once, and torchrun then ends the others. Any other mistake is printed after `GRACE`.
    """
    if not FIRST:
        time.sleep(GRACE)
    line = one_line(reason)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler):
            about = ("spp_det", logging.ERROR, __file__, 0, "error: %s", (line,), None)
            handler.handle(logging.LogRecord(*about))
    with suppress(OSError, ValueError):  # the terminal is closed
        print(f"error: {line}", file=sys.stderr, flush=True)
    _end(2)


def _end(code: Any) -> NoReturn:
    """End the process, also where it belongs to a process group of which another process is lost."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError):  # Python would flush again at its end, and change the exit code
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115
    if os.environ.get("WORLD_SIZE", "1") != "1":
        from spp_det.runtime import distributed

        distributed.leave(code)
    sys.exit(code)


def _leave(number: int, _frame: object) -> None:
    """End by an exception, so that half-written files are removed and the terminal is restored. All other
    files are whole in any case."""
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, lambda *_: None)  # `_end_by_force` gets the next signal through its socket
    how = "interrupted" if number == signal.SIGINT else "terminated"
    logging.getLogger("spp_det").info("; ".join(filter(None, (how, _goes_on))))
    raise SystemExit(128 + number)


def _end_by_force(signals: socket.socket) -> NoReturn:
    """End the process `GRACE` seconds after a signal, or at the next signal, whatever its threads do.

    ``signals`` gets a byte for each signal, at once. `_leave` runs only when the main thread returns to
    Python from a long computation, or from waiting for a process that is lost.
    """
    number = signals.recv(1)[0]
    select.select([signals], [], [], GRACE)
    if os.isatty(2):
        os.write(2, b"\x1b[?25h")  # shows the cursor, which the progress bar has hidden
    os._exit(128 + number)
