"""Names from files, made fit to be shown."""

from __future__ import annotations

import unicodedata


def printable(name: str) -> str:
    """``name`` on one line: no control, direction-changing or invalid characters, single blanks.

    A name of nothing else becomes ``"?"``.
    """
    visible = (" " if c.isspace() else c for c in name if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join("".join(visible).split()) or "?"
