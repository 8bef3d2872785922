"""How long the constrained M-step takes, how flat its background is, and what it costs in FRC.

python tests/benchmarks/clamp.py [classes] [box]: averages of known projections with the noise of
simulated statistics, solved ordinarily and with a flat solvent. Columns: seconds of one call and
convergence, the gradient of the misfit on its free pixels as a part of what it starts from (a
blank image); the standard deviation outside the circle as a part of the unmasked average's; the
mean FRC against the truth up to where the ordinary solution's is 0.143, all inside the same soft
mask; and the root mean square error inside it as a part of the ordinary solution's.
"""

import math
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryo2d.em.clamp import ClampedSolver, Misfit
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.solve import WienerSolver
from cryo2d.em.stats import SufficientStats
from cryo2d.geometry.polar import PolarGrid
from cryo2d.geometry.shells import ring_correlation
from cryo2d.physics.ctf import ctf_at
from cryo2d.physics.mask import radius_grid
from cryo2d.physics.solvent import SolventMask
from cryo2d.simulate.fold import random_rotations
from cryo2d.simulate.molecules import molecules
from cryo2d.simulate.phantom import project
from cryo2d.types import CtfParams

FIELD = 200.0  # side of the box (Angstrom); the molecules fill at most 150


def projections(classes: int, box: int) -> Tensor:
    """Random views of the demo's molecules ``[k y x]``, standard deviation 1."""
    rng, kinds = np.random.default_rng(0), molecules()
    turns = torch.from_numpy(np.asarray(random_rotations(rng, classes))).float()
    images = torch.empty(classes, box, box)
    for which, molecule in enumerate(kinds):
        rows = slice(which, None, len(kinds))
        if which < classes:
            images[rows] = project(molecule, turns[rows], None, box, FIELD / box)
    return images / images.flatten(1).std(1)[:, None, None]


def statistics(truth: Tensor, grid: PolarGrid, particles: float, seed: int = 0) -> SufficientStats:
    """Sums over perfectly aligned particles of signal-to-noise ratio about 0.05.

    num = den A^ + sqrt(den) white noise in two half-sets, den = particles CTF^2 / sigma^2; the
    classes hold from 0.3 to 2 times as many particles as asked for.
    """
    generator = torch.Generator().manual_seed(seed)
    frequency = grid.radii / FIELD
    defocus = torch.linspace(8000.0, 22000.0, 40)
    ones = torch.ones_like(defocus)
    ctf = CtfParams(
        defocus, defocus, 0 * ones, 300 * ones, 2.7e7 * ones, 0.1 * ones, 0 * ones, 60 * ones
    )
    power = ctf_at(ctf, frequency, torch.zeros_like(frequency)).square().mean(0)
    sigma2 = 20.0 * (0.5 + 2.0 * torch.exp(-frequency / 0.03))
    count = 0.5 * particles * torch.linspace(0.3, 2.0, len(truth))
    den = count[:, None] * power / sigma2
    signal = den[:, None] * grid.harmonics(grid.sample(truth))
    num = []
    for _ in range(2):
        noise = grid.harmonics(grid.sample(torch.randn(truth.shape, generator=generator)))
        num.append(signal + den.sqrt()[:, None] * noise)
    none = torch.zeros(1, grid.num_rings)
    return SufficientStats(
        torch.stack(num), den.expand(2, -1, -1), count.expand(2, -1), none, none[:, 0]
    )


def grid_of(box: int) -> PolarGrid:
    """Rings up to 0.8 of Nyquist."""
    return PolarGrid(box, int(0.4 * box))


def mask_of(box: int) -> SolventMask:
    """A circle round the molecules."""
    return SolventMask(box, 0.38 * box, 0.44 * box, neighbours=False)


def convergence(misfit: Misfit, support: Tensor, images: Tensor) -> Tensor:
    """The violation of the optimality conditions ``[k]``, 1 for a blank image.

    The gradient has to vanish on the support; with ``images`` of at least 0 it may be positive
    where they are 0.
    """
    gradient = support * misfit.gradient(images)
    if float(images.min()) >= 0.0:
        gradient = torch.where(images > 0, gradient, gradient.clamp(max=0.0))
    blank = support * misfit.gradient(torch.zeros_like(images))
    return gradient.flatten(1).norm(dim=1) / blank.flatten(1).norm(dim=1)


def against_truth(grid: PolarGrid, images: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """FRC ``[k s]`` with the truth, both inside one mask."""
    return ring_correlation(
        grid, *(grid.harmonics(grid.sample(pictures * mask)) for pictures in (images, truth))
    )


@dataclass(frozen=True)
class Comparison:
    """An ordinary solution as the standard that others are measured with."""

    grid: PolarGrid
    mask: Tensor
    outside: Tensor
    truth: Tensor
    unmasked: Tensor
    level: Tensor

    def background(self, images: Tensor) -> Tensor:
        """Standard deviation outside the circle as a part of the unmasked average's ``[k]``."""
        return images[:, self.outside].std(1) / self.unmasked[:, self.outside].std(1)

    def correlation(self, images: Tensor) -> Tensor:
        """Mean FRC with the truth ``[k]`` over the rings where the ordinary solution has signal."""
        ordinary = self.unmasked - self.level[:, None, None]
        usual = against_truth(self.grid, ordinary, self.truth, self.mask)
        signal = (usual < 0.143).cumsum(1) == 0
        found = against_truth(self.grid, images, self.truth, self.mask)
        return (found * signal).sum(1) / signal.sum(1)

    def error(self, images: Tensor) -> Tensor:
        """Root mean square error inside the mask ``[k]``."""
        return ((images - self.truth) * self.mask).flatten(1).square().mean(1).sqrt()


def comparison(solver: ClampedSolver, stats: SufficientStats, truth: Tensor) -> Comparison:
    """The ordinary solution of the same statistics."""
    unmasked = solver.filtered(stats).averages
    mask = solver.solvent.circle
    outside = radius_grid(solver.grid.box) > solver.solvent.outer
    level = solver.solvent.level(unmasked, mask.expand_as(unmasked))
    return Comparison(solver.grid, mask, outside, truth, unmasked, level)


def main(classes: int = 200, box: int = 128) -> None:
    """Print the table."""
    grid, solvent, regularizer = grid_of(box), mask_of(box), FrcRegularizer()
    truth = projections(classes, box)
    stats = statistics(truth, grid, 300.0)
    standard = comparison(ClampedSolver(grid, solvent, regularizer), stats, truth)
    solvers: dict[str, WienerSolver] = {"ordinary": WienerSolver(grid, solvent, regularizer)}
    for steps in (5, 10, 15, 25, 40):
        solvers[f"clamped, {steps} steps"] = ClampedSolver(grid, solvent, regularizer, steps=steps)
    for rounds in (4, 8, 12, 16):
        solvers[f"non-negative, {rounds} rounds"] = ClampedSolver(
            grid, solvent, regularizer, positive=True, rounds=rounds
        )
    lines = [f"{classes} classes, box {box}, {torch.get_num_threads()} thread(s)"]
    lines.append(
        f"{'solver':26}{'seconds':>9}{'converged':>11}{'background':>12}{'FRC':>8}{'rms':>8}"
    )
    usual = standard.error(solvers["ordinary"](stats).averages)
    for name, solver in solvers.items():
        start = time.perf_counter()
        solution = solver(stats)
        seconds = time.perf_counter() - start
        left = math.nan
        if isinstance(solver, ClampedSolver):
            raw = solver.filtered(stats)
            misfit, support = solver.misfit(raw, stats.den.sum(0)), solver.support(raw)
            left = float(convergence(misfit, support, solution.averages).max())
        flat = float(standard.background(solution.averages).max())
        frc = float(standard.correlation(solution.averages).mean())
        rms = float((standard.error(solution.averages) / usual).mean())
        lines.append(f"{name:26}{seconds:9.2f}{left:11.1e}{flat:12.1e}{frc:8.4f}{rms:8.3f}")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
