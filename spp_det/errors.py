"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Something the user gave is wrong: a path, a key, an annotation, a model file.

    Its message is one line that names the thing and says what is allowed. The command line prints
    that line to stderr and exits with code 2; a library caller catches it like any exception.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(one_line(message))


class OthersLostError(UserError):
    """Another of several processes has ended, or is out of reach: this one cannot go on."""


class CannotResumeError(UserError):
    """What a folder holds is of another run, or damaged, so that this run cannot go on with it."""


def one_line(text: str) -> str:
    r"""The text with everything escaped that would not show as itself, such as ``\n``.

    Names from files of strangers could otherwise end a line, or give a terminal orders.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


NOT_ENOUGH_MEMORY = "take a lower backbone.max_side, fewer scales, fewer workers, or another device"


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether this is torch's way to say that a GPU, or the CPU's memory, is full."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)
