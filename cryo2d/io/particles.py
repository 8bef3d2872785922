"""Read and write particle metadata, whatever the format."""

from cryo2d.io.columns import CsColumns, StarColumns
from cryo2d.io.table import (
    AlignmentColumns,
    CtfColumns,
    Excluded,
    Locations,
    ParticleTable,
)

__all__ = [
    "AlignmentColumns",
    "CsColumns",
    "CtfColumns",
    "Excluded",
    "Locations",
    "ParticleTable",
    "StarColumns",
]
