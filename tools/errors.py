"""The error that a person is meant to read."""


class SetupError(SystemExit):
    """A mistake or lack outside our code, told in one line that names the cure.

    Being a SystemExit it ends a command with that line and exit code 1, without a traceback; tests catch it by name.
    """

    def __init__(self, message: str):
        super().__init__(f"fovea: {message}")
        self.message = message
