"""The errors of hpal. Each is one line that names the subject, the problem and the remedy."""

from __future__ import annotations


class HpalError(Exception):
    """hpal cannot do what was asked, with this data or on this machine. A command then exits with status 1.

    The message is one line, `subject: problem; remedy`. `subject` is the file, store or option at fault.
    """

    exit_status = 1

    def __init__(self, subject: object, problem: str, remedy: str) -> None:
        self.subject = str(subject)
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{self.subject}: {problem}; {remedy}")

    def __reduce__(self) -> tuple[type[HpalError], tuple[str, str, str]]:
        # Crosses from worker processes, which rebuild an exception from its arguments.
        return type(self), (self.subject, self.problem, self.remedy)


class UsageError(HpalError):
    """The call itself is wrong, such as the value of an option or a missing argument. A command then exits with status
    2."""

    exit_status = 2
