"""Particles that arrive while a microscope runs: star files that appear or grow, with their stacks.

Every row is taken once, known by its stack and image. What was taken is kept as star files of its
own, numbered in order, from which an interrupted run is put together again.
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from cryo2d.errors import InputError
from cryo2d.io.atomic import atomic_write
from cryo2d.io.columns import StarColumns
from cryo2d.io.mrc import read_header
from cryo2d.io.particles import Excluded, ParticleTable, read_particles, write_particles
from cryo2d.io.relion import StarReader
from cryo2d.io.stacks import find_stacks

log = logging.getLogger(__name__)

WAITING = "waiting"


class Clock(Protocol):
    """Time as the feed sees it (seconds)."""

    def now(self) -> float:
        """Seconds since some moment."""

    def sleep(self, seconds: float) -> None:
        """Let time pass."""


class SystemClock:
    """The time of the machine."""

    def now(self) -> float:
        """Seconds since some moment."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)


@dataclass(frozen=True)
class Delivery:
    """Particles that arrived together.

    Attributes:
        table: those that can be used, or None.
        excluded: the others, with the reason.
    """

    table: ParticleTable | None
    excluded: tuple[Excluded, ...]


@dataclass
class _Watched:
    """A file as it was last seen.

    Attributes:
        signature: time of its last change and size; None for no file.
        since: when it was first seen so.
        polls: how often it was seen so.
        done: whether nothing is left to take from it.
    """

    signature: tuple[int, int] | None
    since: float
    polls: int = 0
    done: bool = False


class Feed:
    """Watches a folder, or one star file that grows.

    Attributes:
        waiting: files with rows that are not whole yet.
        unreadable: files given up, with the reason.

    Args:
        watch: a folder, searched with all folders inside it, or a star file.
        store: folder that the deliveries are kept in, inside that of the run.
        pattern: names of the star files in a watched folder.
        patience: after so long without a change what is not whole is set aside (s).
        clock: the time.
        pixel_size: of the images, in place of the files' (Angstrom).
        require_ctf: whether CTF parameters must be there.
    """

    def __init__(
        self,
        watch: Path,
        store: Path,
        *,
        pattern: str = "*.star",
        patience: float = 600.0,
        clock: Clock | None = None,
        pixel_size: float | None = None,
        require_ctf: bool = True,
    ) -> None:
        self.watch, self.store, self.pattern = watch, store, pattern
        self.patience, self.clock = patience, clock or SystemClock()
        self.pixel_size, self.require_ctf = pixel_size, require_ctf
        self.waiting: set[str] = set()
        self.unreadable: dict[str, str] = {}
        self._files: dict[str, _Watched] = {}
        self._known: dict[str, set[int]] = {}
        self._held: dict[str, int] = {}
        self._first: ParticleTable | None = None
        self._number = 0

    def poll(self) -> list[Delivery]:
        """What has become whole since the last look."""
        found = self._stars()
        return [d for path in found for d in self._take(path)]

    def restore(self, store: Path) -> list[Delivery]:
        """Take again, in order, what an earlier feed has kept in its folder."""
        deliveries = []
        for path in sorted(store.glob("[0-9]*.star")):
            table = self._draft(path)
            reasons = path.with_suffix(".txt")
            said = reasons.read_text(encoding="utf-8").splitlines() if reasons.is_file() else None
            deliveries.append(self._deliver(table, said))
        return deliveries

    def _stars(self) -> list[Path]:
        if self.watch.is_dir():
            # the run may write into the folder that it watches
            own = self.store.resolve().parent
            found = sorted(self.watch.rglob(self.pattern))
            return [p for p in found if p.is_file() and own not in p.resolve().parents]
        return [self.watch] if self.watch.is_file() else []

    def _seen(self, path: str | Path) -> _Watched:
        """The state of a file after one more look."""
        try:
            status = Path(path).stat()
            signature = status.st_mtime_ns, status.st_size
        except OSError:
            signature = None
        state = self._files.get(str(path))
        if state is None or state.signature != signature:
            state = self._files[str(path)] = _Watched(signature, self.clock.now())
        else:
            state.polls += 1
        return state

    def _is_late(self, state: _Watched) -> bool:
        return self.clock.now() - state.since >= self.patience

    def _take(self, path: Path) -> Iterator[Delivery]:
        """The rows of a file that are whole and new."""
        state = self._seen(path)
        if state.done:
            return
        self.waiting.add(str(path))
        if not (state.polls or _ends_with_a_line(path)):
            return
        try:
            table = self._draft(path)
        except InputError as error:
            if self._is_late(state):
                state.done = True
                self.waiting.discard(str(path))
                self.unreadable[str(path)] = str(error)
                log.warning("%s is left out: %s", path, error)
            return
        self.unreadable.pop(str(path), None)
        table = table.take(self._is_new(table))
        verdicts = self._verdicts(table)
        said = np.array([verdicts[stack] for stack in table.stack_id.tolist()], dtype=object)
        self._judge_ends(table, said)
        state.done = WAITING not in said
        if state.done:
            self.waiting.discard(str(path))
        if (said == "").any():
            yield self._deliver(table.take(said == ""), None)
        broken = (said != "") & (said != WAITING)
        if broken.any():
            log.warning("%d particles of %s are left out: %s", broken.sum(), path, said[broken][0])
            yield self._deliver(table.take(broken), said[broken].tolist())

    def _draft(self, path: Path) -> ParticleTable:
        """The rows of a star file, unchecked, their stacks looked for."""
        draft = StarReader(path).draft(self.pixel_size, self.require_ctf)
        if draft.problems:
            raise InputError(draft.problems)
        found = find_stacks(path, draft.table.stack_names)
        return replace(draft.table, stacks=found.paths)

    def _is_new(self, table: ParticleTable) -> np.ndarray:
        """Which rows were not taken before ``[n]``."""
        known = [self._known.get(stack, set()) for stack in table.stacks]
        places = zip(table.stack_id.tolist(), table.image_index.tolist(), strict=True)
        return np.array([image not in known[stack] for stack, image in places], bool)

    def _verdicts(self, table: ParticleTable) -> dict[int, str]:
        """For each stack in use: nothing, that it is waited for, or why it cannot be used."""
        problem = self._misfit(table) if len(table) else ""
        used = np.unique(table.stack_id).tolist()
        return {stack: problem or self._verdict(table.stacks[stack]) for stack in used}

    def _verdict(self, stack: str) -> str:
        state = self._seen(stack)
        try:
            header = None if state.signature is None else read_header(stack)
        except InputError as error:
            return str(error.problems[0]) if self._is_late(state) else WAITING
        if header is None:
            return f"stack {stack} is missing" if self._is_late(state) else WAITING
        self._held[stack] = header.available
        if header.available < header.nz and not self._is_late(state):
            return WAITING
        box = header.nx if self._first is None else int(self._first.box[0])
        if header.nx != box:
            return f"images of {header.nx} pixels, and those before have {box}"
        return ""

    def _judge_ends(self, table: ParticleTable, said: np.ndarray) -> None:
        """Change the verdict on images that lie beyond the end of their stack."""
        held = np.array([self._held.get(stack, 0) for stack in table.stacks], np.int64)
        beyond = (said == "") & (table.image_index >= held[table.stack_id])
        for row in np.flatnonzero(beyond).tolist():
            stack, image = table.stacks[table.stack_id[row]], int(table.image_index[row])
            reason = f"image {image + 1} lies beyond the end of {stack}"
            said[row] = reason if self._is_late(self._files[stack]) else WAITING

    def _misfit(self, table: ParticleTable) -> str:
        """Why the rows of a file do not go with those before; nothing if they do."""
        first = self._first
        if first is None:
            return ""
        size, before = float(table.pixel_size[0]), float(first.pixel_size[0])
        if abs(size / before - 1) > 1e-3:
            return f"pixel size {size:.4g} A, and those before have {before:.4g} A"
        ours, theirs = table.columns, first.columns
        assert isinstance(ours, StarColumns)
        assert isinstance(theirs, StarColumns)
        if set(ours.rows.labels) != set(theirs.rows.labels):
            odd = sorted(set(ours.rows.labels) ^ set(theirs.rows.labels))
            return f"other columns than those before: {', '.join(odd)}"
        if (ours.optics is None) != (theirs.optics is None):
            return "an optics block, or none, unlike those before"
        return ""

    def _deliver(self, table: ParticleTable, reasons: list[str] | None) -> Delivery:
        """Keep the rows and check them; with reasons, all of them are left out."""
        self._number += 1
        path = self.store / f"{self._number:06d}.star"
        for stack, image in zip(table.stack_id.tolist(), table.image_index.tolist(), strict=True):
            self._known.setdefault(table.stacks[stack], set()).add(image)
        write_particles(path, table)
        if reasons is None:
            try:
                usable, excluded = read_particles(
                    path, pixel_size=self.pixel_size, require_ctf=self.require_ctf
                )
                self._first = self._first or usable.take(np.arange(1))
                return Delivery(usable, (excluded,) if len(excluded.table) else ())
            except InputError as error:
                log.warning("%d particles are left out: %s", len(table), error)
                reasons = [str(error.problems[0])] * len(table)
        lines = [" ".join(reason.split()) for reason in reasons]
        with atomic_write(path.with_suffix(".txt")) as file:
            file.write("\n".join(lines).encode())
        return Delivery(None, (Excluded(replace(table, source=str(path)), tuple(lines)),))


def _ends_with_a_line(path: Path) -> bool:
    """Whether the last line of a text file is ended."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 1))
        return file.read(1) == b"\n"
