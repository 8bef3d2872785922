"""The choice made on the page, kept in a file from click to click."""

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryo2d.errors import InputError, Problem
from cryo2d.io.atomic import atomic_write

FILE = "selection.json"


class OutdatedError(ValueError):
    """The choice was changed elsewhere, on another page, in between."""


@dataclass(frozen=True)
class Choice:
    """Selected classes.

    Attributes:
        selected: 1-based numbers, ascending.
        revision: counts the changes.
    """

    selected: tuple[int, ...] = ()
    revision: int = 0


class Memory:
    """Keeps a choice in a file, whole at any moment."""

    def __init__(self, path: Path, num_classes: int) -> None:
        """Take up an earlier choice.

        Args:
            path: the file; made at the first change.
            num_classes: classes there are to choose from.

        Raises:
            InputError: if the file is no choice among so many classes.
        """
        self.path = path
        self.num_classes = num_classes
        self._lock = threading.Lock()
        self.choice = self._read() if path.is_file() else Choice()

    def _read(self) -> Choice:
        try:
            held = json.loads(self.path.read_text(encoding="utf-8"))
            same = held["num_classes"] == self.num_classes
            choice = Choice(tuple(map(int, held["selected"])), int(held["revision"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._refused(f"a file that cannot be read ({error})") from error
        if not same or not set(choice.selected) <= set(range(1, self.num_classes + 1)):
            raise self._refused("a choice among other classes")
        return choice

    def _refused(self, found: str) -> InputError:
        expected = f"a choice among {self.num_classes} classes"
        return InputError([Problem(str(self.path), found, expected, "delete or rename it")])

    def change(self, selected: list[int], revision: int) -> Choice:
        """Replace the choice.

        Args:
            selected: 1-based numbers of the selected classes.
            revision: of the new choice; a page counts on from the one that it began with.

        Returns:
            The new choice.

        Raises:
            OutdatedError: if there is one as new already.
            EnvironmentFault: if the file cannot be written.
        """
        with self._lock:
            if revision <= self.choice.revision:
                raise OutdatedError("the choice was changed on another page")
            choice = Choice(tuple(sorted(set(selected))), revision)
            held = {
                "num_classes": self.num_classes,
                "selected": list(choice.selected),
                "revision": choice.revision,
                "saved": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with atomic_write(self.path) as file:
                file.write((json.dumps(held) + "\n").encode())
            self.choice = choice
            return choice
