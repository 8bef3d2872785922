"""Milliseconds of a particle visit (E-step, statistics and M-step), by class number and box.

    python tests/benchmarks/throughput.py [--classes 50 100] [--boxes 64 128] [--visits 2000]

Particles are noise and references random blobs: the cost does not depend on what they show, apart
from the number of candidates, which is printed.
"""

import argparse
import time

import torch

from cryo2d.data.cache import ParticleCache
from cryo2d.em.model import ClassModel
from cryo2d.em.online import NoiseModel, OnlineEM
from cryo2d.em.posterior import Posterior
from cryo2d.em.prior import FrcRegularizer
from cryo2d.em.score import PoseScorer
from cryo2d.em.solve import WienerSolver
from cryo2d.em.stats import SufficientStats, add_residual
from cryo2d.physics.preprocess import weigh
from cryo2d.physics.solvent import gaussian
from cryo2d.training.assembly import Frame
from cryo2d.types import CtfParams

PARTS = ("prepare", "search", "statistics", "M-step")


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


def iteration(frame: Frame, cache: ParticleCache, model: ClassModel, size: int) -> tuple:
    """One EM iteration: seconds of each part, and candidates per particle."""
    grid, device = frame.grid, cache.rings.device
    optimizer = OnlineEM(
        model, solver=WienerSolver(grid, frame.solvent, FrcRegularizer()), noise=NoiseModel()
    )
    clock = dict.fromkeys(PARTS, 0.0)

    def lap(name: str, since: float) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        now = time.perf_counter()
        clock[name] += now - since
        return now

    now = time.perf_counter()
    scorer = PoseScorer(model.references.detach(), grid, frame.search, rings=grid.num_rings)
    stats = SufficientStats.zeros(grid, model.num_classes, 1, device)
    prior = torch.zeros(model.num_classes, device=device)
    now, candidates = lap("prepare", now), 0
    for start in range(0, len(cache), size):
        batch = cache.batch(torch.arange(start, min(start + size, len(cache))))
        images = weigh(batch, grid, pixel_size=frame.pixel_size, noise=model.noise)
        found = scorer.candidates(images, log_prior=prior, uncertainty=1.5)
        candidates += len(found.loglik)
        now = lap("search", now)
        posterior = Posterior.of(found, uncertainty=1.5)
        posterior.add_to(stats, grid, images)
        add_residual(stats, grid, images, posterior.best_poses, scorer.harmonics)
        now = lap("statistics", now)
    optimizer.step(stats=stats, iteration=0)
    lap("M-step", now)
    return clock, candidates / len(cache)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", nargs="+", type=int, default=[50, 100])
    parser.add_argument("--boxes", nargs="+", type=int, default=[64, 128])
    parser.add_argument("--visits", type=int, default=2000)
    parser.add_argument("--size", type=int, default=512)
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_grad_enabled(False)
    print(f"{device}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print("| classes | box | candidates | " + " | ".join(PARTS) + " | ms a visit |")
    print("|---" * (len(PARTS) + 4) + "|")
    for box in options.boxes:
        frame = Frame(box, 4.0 * 64 / box, 8.0 * 64 / box)
        for num_classes in options.classes:
            cache, model = problem(frame, num_classes, options.visits, device)
            iteration(frame, cache, model, options.size)
            clock, candidates = iteration(frame, cache, model, options.size)
            cells = [f"{1e3 * clock[part] / options.visits:.3f}" for part in PARTS]
            total = 1e3 * sum(clock.values()) / options.visits
            text = " | ".join(cells)
            print(
                f"| {num_classes} | {box} | {candidates:.1f} | {text} | {total:.3f} |", flush=True
            )


if __name__ == "__main__":
    main()
