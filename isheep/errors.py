"""The one error that a user is meant to read."""


class UserError(Exception):
    """Something that the user can mend. The message is one line: the thing, the value found, the way out."""
