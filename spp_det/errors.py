"""The exception for mistakes that a user can mend, and how names from other people's files are shown.

Messages, tables, pictures and pages show such names, so their functions lie in the lowest room.
"""

from __future__ import annotations

import unicodedata

MOST_SHOWN, MOST_OF_NAME = 4000, 300  # characters of a message, and of a name in a table or picture


class UserError(Exception):
    """Something the user gave is wrong: a path, a key, an annotation, a model file.

    Its message is one line that names the thing and says what is allowed. The command line prints
    that line to stderr and exits with code 2; a library caller catches it like any exception.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class MissingPackageError(UserError):
    """A feature needs an optional package, an extra of spp_det, that is not installed."""


class OthersLostError(UserError):
    """Another of the processes that share the work has ended or is out of reach, so this one cannot go on."""


class CannotResumeError(UserError):
    """A folder holds the files of another run, or damaged ones, so this run cannot go on with them."""


def one_line(text: str) -> str:
    r"""The text of a message; a character that would not show as itself, such as ``\n``, is escaped.

    Otherwise a name from somebody's file could end the line, or control the terminal. Of a text of more than
    `MOST_SHOWN` characters the middle is left out.
    """
    if len(text) > MOST_SHOWN:
        text = f"{text[: MOST_SHOWN // 2]} ... {text[-MOST_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable(name: str) -> str:
    """A name for a table or picture: one line, without control, direction-changing or invalid characters.

    Runs of white space become one blank. A name without any visible character becomes ``"?"``, and one of
    more than `MOST_OF_NAME` characters ends in dots.
    """
    if len(name) > MOST_OF_NAME:
        name = f"{name[: MOST_OF_NAME - 3]}..."
    visible = (" " if c.isspace() else c for c in name if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join("".join(visible).split()) or "?"


NOT_ENOUGH_MEMORY = "take a lower backbone.max_side, fewer scales, fewer workers, or another device"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch or OpenCV says by this error that the memory of a GPU or of the CPU is full."""
    full = ("can't allocate memory", "Insufficient memory")
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(words in str(error) for words in full)
    )
