"""Errors that a user can mend, each one line and a next step."""


class ParityError(Exception):
    """Bad input: says what is wrong and what to do next. The command line turns it into exit code 2."""

    def __init__(self, problem: str, next_step: str):
        super().__init__(problem, next_step)
        self.problem = " ".join(problem.split())
        self.next_step = " ".join(next_step.split())

    def __str__(self) -> str:
        return f"{self.problem.rstrip('.')}. {self.next_step}"
