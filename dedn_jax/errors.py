"""The one exception for mistakes a user can mend."""


class InputError(Exception):
    """A file, field or flag the user gave cannot be used.

    The message is one line that names the file, the field, what was found, what was expected and
    what to do. The command line prints it without a stack trace and exits with status 2.
    """
