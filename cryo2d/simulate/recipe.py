"""The settings of a simulation, in the units users write."""

from collections.abc import Sequence
from dataclasses import dataclass

from cryo2d.errors import InputError, Problem
from cryo2d.simulate.filaments import NAMES as TUBES
from cryo2d.simulate.molecules import NAMES
from cryo2d.simulate.scene import JUNK, MAX_VIEWS, Kind

JUNK_NAMES = tuple(kind.name.lower() for kind in Kind if kind is not Kind.GOOD)


@dataclass(frozen=True)
class Recipe:
    """What to simulate; its fields are the keyword arguments of ``simulate``.

    Attributes:
        num_particles: boxes, junk included.
        box: image size (pixel), even.
        pixel_size: Angstrom.
        num_molecules: the first so many of ``cryo2d.simulate.molecules``.
        molecules: names of molecules in place of the first ``num_molecules``; null for those.
        rarest: abundance of the last of them, that of the first being 1; those between fall
            geometrically.
        num_tubes: kinds of helical tubes in place of molecules, the first so many of
            ``cryo2d.simulate.filaments``, in equal shares; 0 for molecules.
        tube_step: between two picks along a tube (Angstrom).
        views: fixed directions per molecule; null for every direction of SO(3).
        snr: variance of the signal over variance of the noise, see
            ``cryo2d.simulate.particles.signal_gain``.
        junk_fraction: share of boxes without a single whole molecule.
        junk: its kinds, in equal shares: ``empty``, ``contaminant``, ``aggregate``, ``carbon``
            (the edge of a film), ``ice`` (a crystal), ``overlap`` (two molecules, one above the
            other).
        neighbours: mean number of unpicked molecules that reach into a box.
        crowding: mean number of molecules, at most six, that touch a particle.
        micelle: mass of the detergent belt round each particle, as a part of the molecule's; its
            shape and in-plane orientation know nothing of the protein's. 0 for none.
        defocus_min: smallest defocus of a micrograph (Angstrom).
        defocus_max: largest.
        astigmatism: standard deviation of defocus U - V over the micrographs (Angstrom).
        phase_shift: of a phase plate (degree); 0 for none.
        voltage: kilovolt.
        cs: spherical aberration (mm).
        amplitude_contrast: fraction.
        b_factor: of the envelope (Angstrom^2), 40 % more with each further optics group.
        scale_spread: standard deviation of the logarithm of the contrast.
        shift_sigma: standard deviation of the shift in x and in y (Angstrom).
        num_optics_groups: they differ in envelope and in haze of the background.
        num_micrographs: each has its own defocus and astigmatism, and belongs to one optics group.
        gradient: standard deviation of the linear background, that of the noise being 1.
        float16: write MRC mode 12, half the size, instead of mode 2.
        seed: the same seed gives the same files.
    """

    num_particles: int = 2000
    box: int = 64
    pixel_size: float = 3.0
    num_molecules: int = 4
    molecules: Sequence[str] | str | None = None
    rarest: float = 1.0
    num_tubes: int = 0
    tube_step: float = 40.0
    views: int | None = 5
    snr: float = 0.1
    junk_fraction: float = 0.1
    junk: Sequence[str] | str = tuple(kind.name.lower() for kind in JUNK)
    neighbours: float = 0.2
    crowding: float = 0.0
    micelle: float = 0.0
    defocus_min: float = 8000.0
    defocus_max: float = 22000.0
    astigmatism: float = 300.0
    phase_shift: float = 0.0
    voltage: float = 300.0
    cs: float = 2.7
    amplitude_contrast: float = 0.1
    b_factor: float = 40.0
    scale_spread: float = 0.1
    shift_sigma: float = 6.0
    num_optics_groups: int = 2
    num_micrographs: int = 20
    gradient: float = 0.1
    float16: bool = False
    seed: int = 0

    @property
    def species(self) -> tuple[str, ...]:
        """Names of the molecules."""
        if self.molecules is None:
            return NAMES[: self.num_molecules]
        return (self.molecules,) if isinstance(self.molecules, str) else tuple(self.molecules)

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds of junk."""
        return tuple(Kind[name.upper()] for name in self._junk)

    @property
    def _junk(self) -> tuple[str, ...]:
        return (self.junk,) if isinstance(self.junk, str) else tuple(self.junk)

    @property
    def _known_junk(self) -> bool:
        return len(self._junk) > 0 and set(self._junk) <= set(JUNK_NAMES)

    def __post_init__(self) -> None:
        known = len(NAMES)
        checks = {
            "num_particles": (self.num_particles >= 1, "at least 1"),
            "box": (self.box >= 16 and self.box % 2 == 0, "an even number, at least 16"),
            "pixel_size": (self.pixel_size > 0, "more than 0"),
            "num_molecules": (1 <= self.num_molecules <= known, f"1 to {known}"),
            "molecules": (
                len(self.species) > 0 and set(self.species) <= set(NAMES),
                f"names of {', '.join(NAMES)}",
            ),
            "rarest": (0 < self.rarest <= 1, "more than 0, at most 1"),
            "num_tubes": (0 <= self.num_tubes <= len(TUBES), f"0 to {len(TUBES)}"),
            "tube_step": (self.tube_step > 0, "more than 0"),
            "views": (self.views is None or 1 <= self.views <= MAX_VIEWS, f"1 to {MAX_VIEWS}"),
            "snr": (self.snr > 0, "more than 0"),
            "junk_fraction": (0 <= self.junk_fraction <= 1, "0 to 1"),
            "junk": (
                self._known_junk and (self.num_tubes == 0 or self.kinds == JUNK),
                f"names of {', '.join(JUNK_NAMES)}; the first three with tubes",
            ),
            "neighbours": (self.neighbours >= 0, "0 or more"),
            "crowding": (
                self.crowding == 0 or (0 < self.crowding <= 6 and self.num_tubes == 0),
                "0 to 6, and 0 with tubes",
            ),
            "micelle": (
                self.micelle == 0 or (self.micelle > 0 and self.num_tubes == 0),
                "0 or more, and 0 with tubes",
            ),
            "defocus_max": (self.defocus_max >= self.defocus_min, "at least defocus_min"),
            "amplitude_contrast": (0 <= self.amplitude_contrast <= 1, "0 to 1"),
            "num_micrographs": (self.num_micrographs >= 1, "at least 1"),
            "num_optics_groups": (
                1 <= self.num_optics_groups <= self.num_micrographs,
                "1 to num_micrographs",
            ),
        }
        problems = [
            Problem(f"setting {key}", f"{getattr(self, key)}", expected, "change the setting")
            for key, (right, expected) in checks.items()
            if not right
        ]
        if problems:
            raise InputError(problems)
