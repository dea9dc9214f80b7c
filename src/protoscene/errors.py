"""The two ways in which protoscene declines: a refusal of input, and a failure while running.

Their text is part of the interface: ``FILE: FIELD: problem (got X, expected Y)``.
"""

from __future__ import annotations


def printable(value: object, limit: int = 80) -> str:
    """``value`` as one line without control characters, cut to ``limit`` characters."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


class Refused(Exception):
    """Bad input, bad usage or predicted shortage: exit code 2, and nothing was written.

    ``str(error)`` is at most 240 characters: ``FILE: FIELD: problem (got X, expected Y)``.
    """

    def __init__(
        self, file: object, field: str, problem: str, got: object = None, expected: object = None
    ) -> None:
        name = printable(str(file), 4096)  # the end of a path says more than its beginning
        self.file = name if len(name) <= 80 else "…" + name[-79:]
        self.field = printable(field, 40)
        self.problem = printable(problem, 120)
        self.got = None if got is None else printable(got, 40)
        self.expected = None if expected is None else printable(expected, 60)
        super().__init__(self.one_line())

    def one_line(self) -> str:
        text = f"{self.file}: {self.field}: {self.problem}"
        details = []
        if self.got is not None:
            details.append(f"got {self.got}")
        if self.expected is not None:
            details.append(f"expected {self.expected}")
        if details:
            text += f" ({', '.join(details)})"
        return printable(text, 240)


class Failed(Exception):
    """A failure while running (disk full, diverged): exit code 3."""
