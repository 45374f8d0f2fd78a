"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Something the user gave is wrong: a path, a key, an annotation, a model file.

    Its message is one line that names the thing and says what is allowed. The command line prints
    that line to stderr and exits with code 2; a library caller catches it like any exception.
    """
