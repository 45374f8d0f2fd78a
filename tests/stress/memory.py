"""The most memory that a call takes, as the system counts it."""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MIB = 2**20


def measurable() -> bool:
    """Whether this system tells a process its peak, and lets it begin anew."""
    try:
        CLEAR.write_text("5")
    except OSError:
        return False
    return "VmHWM" in STATUS.read_text()


def growth(call: Callable[[], object]) -> int:
    """Bytes by which the resident process grew at most while the call ran, whatever it gave back."""
    gc.collect()
    gc.freeze()  # what is left need not be looked through again by the next call
    before = resident("VmRSS")
    CLEAR.write_text("5")  # the peak is now the present size
    call()
    return resident("VmHWM") - before


def resident(name: str) -> int:
    """A size in bytes of this process, by its name in Linux's status."""
    found = re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024
