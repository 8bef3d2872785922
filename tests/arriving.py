"""A simulated stack that comes in pieces, and a clock that a test moves."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import pandas as pd
import starfile

PIXEL = 5.0


@dataclass
class Pieces:
    """Cuts a star file and its stack into pieces and delivers them.

    Attributes:
        source: the whole star file.
        folder: where the pieces go.
        size: particles of a piece.
    """

    source: Path
    folder: Path
    size: int

    def __post_init__(self) -> None:
        self.blocks = starfile.read(self.source, always_dict=True)
        names = self.blocks["particles"]["rlnImageName"].str.split("@", expand=True)
        with mrcfile.open(self.source.parent / names[1].iloc[0], permissive=True) as stack:
            self.images = stack.data.copy()
        self.folder.mkdir(parents=True, exist_ok=True)

    def rows(self, number: int):
        start = number * self.size
        rows = self.blocks["particles"].iloc[start : start + self.size].copy()
        rows["rlnImageName"] = [f"{i + 1:06d}@piece{number}.mrcs" for i in range(len(rows))]
        return rows

    def stack(self, number: int, cut: int = 0) -> Path:
        """Write the images of a piece, without the last bytes."""
        path = self.folder / f"piece{number}.mrcs"
        start = number * self.size
        with mrcfile.new(path, self.images[start : start + self.size], overwrite=True) as file:
            file.voxel_size = PIXEL
        if cut:
            path.write_bytes(path.read_bytes()[:-cut])
        return path

    def star(self, *numbers: int, name: str = "", group: str = "") -> Path:
        """Write the rows of pieces into one file, of another optics group if it is named."""
        blocks = {k: v.copy() for k, v in self.blocks.items()}
        parts = [self.rows(number) for number in numbers]
        blocks["particles"] = parts[0]
        if len(parts) > 1:
            blocks["particles"] = pd.concat(parts)
        if group:
            blocks["optics"]["rlnOpticsGroupName"] = group
            blocks["optics"]["rlnVoltage"] = 200.0
        path = self.folder / (name or f"piece{numbers[0]}.star")
        starfile.write(blocks, path, overwrite=True)
        return path

    def deliver(self, number: int, **more: str) -> None:
        self.stack(number)
        self.star(number, **more)


@dataclass
class TestClock:
    """Time that passes only by sleeping; something may happen at any moment of it.

    Attributes:
        events: what is done, one after the other, at each sleep.
    """

    __test__ = False
    time: float = 0.0
    events: list[Callable[[], object]] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds
        if self.events:
            self.events.pop(0)()
