"""The one exception for mistakes a user can mend."""


class InputError(Exception):
    """A file, field or flag the user gave cannot be used.

    The message is one line that names the file, the field, what was found, what was expected and
    what to do. The command line prints it without a stack trace and exits with status 2.
    """


def one_line(error: BaseException, limit: int = 200) -> str:
    """The message of a library's error on one line, of `limit` characters at most."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
