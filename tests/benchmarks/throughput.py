"""Milliseconds of a particle visit (E-step, statistics and M-step), by class number and box.

    python tests/benchmarks/throughput.py [--classes 50 100] [--boxes 64 128] [--visits 2000]

Particles are noise and references random blobs: the cost does not depend on what they show, apart
from the number of candidates, which is printed. On a CPU the times are those of its cores together,
which other programs disturb less than the clock.

Scores are those of the dense search: every class at every rotation and shift, in picoseconds each.
The ratio is that of the E-step (weighting, dense and local search) to the bare matrix products of
its sizes and types, on the same machine.
"""

import argparse
import time
from collections.abc import Callable

import torch

from cryo2d.data.cache import ParticleCache
from cryo2d.em.coarse import product_type
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.posterior import Posterior
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.score import PoseScorer
from cryo2d.em.solve import WienerSolver
from cryo2d.em.stats import SufficientStats, add_residual
from cryo2d.physics.image import adjoint
from cryo2d.physics.preprocess import weigh
from cryo2d.physics.solvent import gaussian
from cryo2d.training.assembly import Frame
from cryo2d.types import CtfParams

PARTS = ("prepare", "weigh", "dense", "local", "statistics", "M-step")
E_STEP = ("weigh", "dense", "local")


def problem(frame: Frame, num_classes: int, visits: int, device: str) -> tuple:
    """Particles of noise and blobs of references."""
    box = frame.box
    generator = torch.Generator().manual_seed(0)
    blobs = torch.randn((num_classes, box, box), generator=generator).to(device)
    references = 20.0 * gaussian(blobs, 2.0) * frame.solvent.circle.to(device)
    grid = frame.grid
    samples = torch.randn((visits, grid.num_angles, grid.num_rings, 2), generator=generator) * 0.7
    one = torch.ones(visits)
    ctf = CtfParams(15000 * one, 14000 * one, one, 300 * one, 2.7e7 * one, 0.1 * one, 0 * one, one)
    zero = torch.zeros(visits, dtype=torch.int64)
    half = torch.arange(visits) % 2
    cache = ParticleCache(samples.half(), ctf, zero, half).to(device)
    return cache, ClassModel(references, torch.ones((1, grid.num_rings))).to(device)


def now(device: torch.device) -> float:
    """Seconds of all cores, or of a GPU that has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def iteration(frame: Frame, cache: ParticleCache, model: ClassModel, size: int) -> tuple:
    """One EM iteration: seconds of each part, candidates per particle, and its references."""
    grid, device = frame.grid, cache.rings.device
    optimizer = OnlineEM(
        model, solver=WienerSolver(grid, frame.solvent, FrcRegularizer()), noise=NoiseModel()
    )
    clock = dict.fromkeys(PARTS, 0.0)

    def lap(name: str, since: float) -> float:
        clock[name] += now(device) - since
        return now(device)

    start = now(device)
    scorer = PoseScorer(model.references.detach(), grid, frame.search, rings=grid.num_rings)
    stats = SufficientStats.zeros(grid, model.num_classes, 1, device)
    prior = torch.zeros(model.num_classes, device=device)
    start, candidates = lap("prepare", start), 0
    for first in range(0, len(cache), size):
        batch = cache.batch(torch.arange(first, min(first + size, len(cache))))
        images = weigh(batch, grid, pixel_size=frame.pixel_size, noise=model.noise)
        start = lap("weigh", start)
        scorer.coarse.best(scorer.coarse_parts(images))
        dense = now(device) - start
        start = lap("dense", start)
        found = scorer.candidates(images, log_prior=prior, uncertainty=1.5)
        candidates += len(found.loglik)
        start = lap("local", start)
        clock["local"] -= dense  # which is part of both
        posterior = Posterior.of(found, uncertainty=1.5)
        best = posterior.best_poses
        taken = adjoint(grid, images.image, best.psi, best.shift)  # once for both, as in a run
        posterior.add_to(stats, grid, images, taken)
        add_residual(stats, grid, images, best, scorer.harmonics, taken)
        start = lap("statistics", start)
    optimizer.step(stats=stats, iteration=0)
    lap("M-step", start)
    return clock, candidates / len(cache), scorer


def seconds_of(device: torch.device, act: Callable[[], object], repeat: int = 5) -> float:
    """The shortest of several times."""
    taken = []
    for _ in range(repeat):
        start = now(device)
        act()
        taken.append(now(device) - start)
    return min(taken)


def bare_products(scorer: PoseScorer, candidates: float, device: torch.device) -> float:
    """Seconds a visit of matrix products of the sizes of both searches, and of nothing else."""
    coarse, fine = scorer.coarse, scorer.fine
    orders, rings = coarse.grid.num_angles // 2, coarse.grid.num_rings
    shifts, turns, images = coarse.num_shifts, len(coarse.psi) // 2, 512
    exact = {"device": device, "dtype": product_type(device)}
    bank = torch.randn((orders, 2 * shifts, 2 * rings), **exact)
    parts = torch.randn((orders, 2 * rings, images), **exact)
    mixed = torch.randn((2 * orders, shifts * images), **exact)
    waves = torch.randn((turns, 2 * orders), **exact)
    one_class = 2 * seconds_of(device, lambda: (torch.bmm(bank, parts), waves @ mixed))
    width, moves = fine._phase.shape
    products = torch.randn((32 * len(fine.local.turns), width), device=device)
    phases = torch.randn((moves, width), device=device)
    local = seconds_of(device, lambda: phases @ products.T) / 32
    return coarse.num_classes * one_class / images + candidates * local


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="+", type=int, default=[50, 100])
    parser.add_argument("--boxes", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--visits", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_grad_enabled(False)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    columns = ("classes", "box", "candidates", *PARTS, "ms a visit", "ps a score", "ratio")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for box in options.boxes:
        frame = Frame(box, 4.0 * 64 / box, 8.0 * 64 / box)
        for num_classes in options.classes:
            cache, model = problem(frame, num_classes, options.visits, str(device))
            iteration(frame, cache, model, options.size)
            clock, candidates, scorer = iteration(frame, cache, model, options.size)
            each = {part: clock[part] / options.visits for part in PARTS}
            scores = num_classes * len(scorer.coarse.psi) * scorer.coarse.num_shifts
            bare = bare_products(scorer, candidates, device)
            ratio = sum(each[part] for part in E_STEP) / bare
            text = " | ".join(f"{1e3 * each[part]:.3f}" for part in PARTS)
            total = f"{1e3 * sum(each.values()):.3f} | {1e12 * each['dense'] / scores:.1f}"
            row = f"| {num_classes} | {box} | {candidates:.1f} | {text} | {total} | {ratio:.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
