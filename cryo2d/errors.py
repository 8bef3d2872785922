"""The errors that cross the program's border, and the exit code that each becomes.

====  =======================================================
code  meaning
====  =======================================================
0     finished
2     :class:`InputError`: a file or a setting is wrong
3     :class:`EnvironmentFault`: disk, device, permission
4     any other exception: a bug of ours
143   stopped by a signal
====  =======================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_PROBLEMS = 20
TABLES = (".cs", ".mrc", ".mrcs")
"""Files that have rows or images, and no lines."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with an input, and what to do about it.

    Attributes:
        file: the file concerned.
        found: what is there.
        expected: what should be there.
        action: what the user can do.
        row: 1-based line of a text file or row of a table, if one can be named.
        count: how many rows or files share the problem; ``row`` is the first of them.
    """

    file: str
    found: str
    expected: str
    action: str
    row: int | None = None
    count: int = 1

    def __str__(self) -> str:
        unit = "row" if self.file.endswith(TABLES) else "line"
        where = self.file if self.row is None else f"{self.file}, {unit} {self.row}"
        more = f" (and {self.count - 1} more like it)" if self.count > 1 else ""
        return f"{where}: found {self.found}{more}; expected {self.expected}. Do: {self.action}."


class InputError(ValueError):
    """Input that cannot be used; carries every problem found, not only the first.

    Args:
        problems: at least one problem.
    """

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "an InputError needs at least one problem"
        self.problems = tuple(problems)
        super().__init__(self.report())

    def report(self) -> str:
        """The whole report: how many problems, the first 20 of them, and how many more."""
        number = len(self.problems)
        lines = [f"{number} problem{'s' if number > 1 else ''} in the input:"]
        lines += [f"  {i}. {p}" for i, p in enumerate(self.problems[:SHOWN_PROBLEMS], start=1)]
        if number > SHOWN_PROBLEMS:
            lines.append(f"  ... and {number - SHOWN_PROBLEMS} more.")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[type["InputError"], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class EnvironmentFault(RuntimeError):
    """The machine, not the input, is in the way: a full disk, a missing device or permission."""

    exit_code = 3
