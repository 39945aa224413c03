"""How a command says that it can't do what was asked; ``main`` prints it."""


class CommandError(Exception):
    """One message for the person, and the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
