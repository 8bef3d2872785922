"""The values that travel between the layers, and the one legend of array axes.

Axis legend, used as ``[n a s]`` in every docstring of the package:

====  =====================================================================
n     particle
k     class
h     half-set (0 or 1)
g     optics group
a     angle of a polar Fourier sample on the half circle [0, pi)
s     ring (spatial frequency), ring ``j`` has frequency ``(j + 1) / box``
m     angular order of a circular harmonic
r     in-plane rotation
t     shift
y x   pixel row and column; the box centre is pixel ``box // 2``
====  =====================================================================

Units inside the package are Angstrom, radian, 1/Angstrom and kilovolt.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


class _Columns:
    """Frozen dataclass of tensors that share their first axis."""

    def to(self, device: torch.device | str) -> Self:
        """The same values on another device."""
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})  # type: ignore[arg-type]

    def __getitem__(self, rows: Tensor | slice) -> Self:
        """The same columns for some of the rows."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})  # type: ignore[arg-type]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one part after the other."""
        return cls(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)})  # type: ignore[arg-type]

    def __len__(self) -> int:
        return int(getattr(self, fields(self)[0].name).shape[0])  # type: ignore[arg-type]


@dataclass(frozen=True)
class CtfParams(_Columns):
    """Contrast transfer function parameters, one float32 value per particle, all ``[n]``.

    Attributes:
        defocus_u: defocus along ``defocus_angle`` (Angstrom, positive is underfocus).
        defocus_v: defocus across it (Angstrom).
        defocus_angle: azimuth of ``defocus_u`` from the x axis (radian).
        voltage: acceleration voltage (kilovolt).
        spherical_aberration: Cs (Angstrom).
        amplitude_contrast: fraction, 0 to 1.
        phase_shift: extra phase of a phase plate (radian).
        b_factor: envelope exp(-B s^2 / 4) (Angstrom^2); 0 for none.
    """

    defocus_u: Tensor
    defocus_v: Tensor
    defocus_angle: Tensor
    voltage: Tensor
    spherical_aberration: Tensor
    amplitude_contrast: Tensor
    phase_shift: Tensor
    b_factor: Tensor


@dataclass(frozen=True)
class ParticleBatch(_Columns):
    """Some particles, ready for the E-step.

    Attributes:
        index: row of the particle table ``[n]`` (int64).
        rings: polar Fourier samples of the normalised, windowed particle ``[n a s]`` (complex64).
        ctf: CTF parameters of the particles.
        optics: optics group ``[n]`` (int64).
        half: half-set, 0 or 1 ``[n]`` (int64).
        scale: contrast scale alpha ``[n]`` (float32).
    """

    index: Tensor
    rings: Tensor
    ctf: CtfParams
    optics: Tensor
    half: Tensor
    scale: Tensor


@dataclass(frozen=True)
class GivenPoses(_Columns):
    """Poses that the particles came with.

    Attributes:
        psi: in-plane rotation image -> class ``[n]`` (radian).
        shift: x and y shift image -> class, before the rotation ``[n 2]`` (Angstrom).
    """

    psi: Tensor
    shift: Tensor


@dataclass(frozen=True)
class Assignments(_Columns):
    """What the E-step found for each particle, all ``[n]`` but ``shift`` (``[n 2]``).

    ``error = image_pow - alpha * cross_cor + alpha^2 * slice_pow`` is chi-squared of the best pose;
    names and the factor 2 inside ``cross_cor`` follow the columns of cryoSPARC's particle files.

    Attributes:
        class_index: best class, 0-based (int64).
        psi: in-plane rotation image -> class (radian).
        shift: x and y shift image -> class (Angstrom), applied before the rotation.
        class_posterior: posterior probability of the best class.
        class_ess: effective number of classes, 1 / sum p^2.
        pose_ess: effective number of rotations in the best class.
        shift_ess: effective number of shifts in the best class.
        image_pow: sum |X|^2 / sigma^2.
        cross_cor: 2 Re <X, CTF A> / sigma^2 at the best pose.
        slice_pow: sum |CTF A|^2 / sigma^2 at the best pose.
        alpha: contrast scale used.
        alpha_min: contrast scale that minimises the error, cross_cor / (2 slice_pow).
        outlier: 0 for a typical particle, 1 where its class explains it no better than a free blob.
    """

    class_index: Tensor
    psi: Tensor
    shift: Tensor
    class_posterior: Tensor
    class_ess: Tensor
    pose_ess: Tensor
    shift_ess: Tensor
    image_pow: Tensor
    cross_cor: Tensor
    slice_pow: Tensor
    alpha: Tensor
    alpha_min: Tensor
    outlier: Tensor

    @property
    def error(self) -> Tensor:
        """Chi-squared of the best pose ``[n]``."""
        return self.image_pow - self.alpha * self.cross_cor + self.alpha**2 * self.slice_pow


@dataclass(frozen=True)
class IterationSummary:
    """One iteration as callbacks, loggers and reports see it; every tensor on the CPU.

    Attributes:
        iteration: 0-based number of the finished iteration.
        num_iterations: online plus full iterations of the run.
        full: whether this iteration visited every particle.
        uncertainty: uncertainty factor f of the posterior.
        resolution: finest resolution used for alignment (Angstrom).
        step_size: gamma of the online update, 1 for a full iteration.
        particles: particles visited in this iteration.
        seconds: wall time of the iteration.
        effective_classes: exp of the entropy of the class sizes.
        mean_error: mean chi-squared per particle, divided by the number of Fourier samples.
        unchanged: part of the visited particles that kept the class of their last visit.
        log_likelihood: of a Fourier sample at the best poses, mean, but for a constant.
        averages: class averages ``[k y x]``.
        counts: particles whose best class this is ``[k]``.
        weights: posterior mass of each class ``[k]``, sums to 1.
        class_resolution: resolution of each class at FRC 0.5 and at 0.143 ``[k 2]`` (Angstrom).
        class_ess: mean class ESS of the members of each class ``[k]``.
        class_probability: mean class posterior of the members of each class ``[k]``.
        frc: half-set Fourier ring correlation ``[k s]``.
        noise: noise power sigma^2 per optics group ``[g s]``.
        frequency: spatial frequency of each ring ``[s]`` (1/Angstrom).
        posteriors: class posterior of the visited particles ``[n]``.
        ess: class ESS of the visited particles ``[n]``.
        scales: contrast scale of the visited particles ``[n]``.
        shifts: length of the shift of the visited particles ``[n]`` (Angstrom).
    """

    iteration: int
    num_iterations: int
    full: bool
    uncertainty: float
    resolution: float
    step_size: float
    particles: int
    seconds: float
    effective_classes: float
    mean_error: float
    unchanged: float
    log_likelihood: float
    averages: Tensor
    counts: Tensor
    weights: Tensor
    class_resolution: Tensor
    class_ess: Tensor
    class_probability: Tensor
    frc: Tensor
    noise: Tensor
    frequency: Tensor
    posteriors: Tensor
    ess: Tensor
    scales: Tensor
    shifts: Tensor
