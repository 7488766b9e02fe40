"""The one exception that stands for a user's mistake."""


class UserError(Exception):
    """A mistake that the user can mend: its message says what is wrong, where, and what to do (exit status 2)."""
