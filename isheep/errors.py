"""The errors that a user is meant to read."""


class UserError(Exception):
    """Something that the user can mend. The message is one line: the thing, the value found, the way out."""


class TooLong(UserError):
    """A text that a model's context does not hold."""
