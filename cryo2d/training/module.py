"""The Lightning module: one epoch is one EM iteration."""

import math
import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from cryo2d.data.sampler import Plan, Shares
from cryo2d.em.centring import shift_pull
from cryo2d.em.coarse import PORTION
from cryo2d.em.contrast import MOST_SCALE, normalised
from cryo2d.em.model import ClassModel
from cryo2d.em.online import OnlineEM
from cryo2d.em.outlier import Gains, Gathering, free_blob
from cryo2d.em.outlier import outlier as outlier_of
from cryo2d.em.posterior import Posterior
from cryo2d.em.score import PoseScorer
from cryo2d.em.search import PoseSearch
from cryo2d.em.solve import Solution
from cryo2d.em.stats import SufficientStats, add_residual
from cryo2d.em.variety import VarietySums, add_variety
from cryo2d.geometry.polar import PolarGrid
from cryo2d.physics.image import adjoint
from cryo2d.physics.preprocess import WeightedImages, weigh
from cryo2d.training.assembly import EmSettings
from cryo2d.training.judge import Judgement
from cryo2d.training.portions import Portions
from cryo2d.training.ranks import ALONE, Ranks, unpacked
from cryo2d.training.summary import Step, VisitLog, summarize
from cryo2d.training.sums import Sums
from cryo2d.training.threads import Threads
from cryo2d.types import Assignments, IterationSummary, ParticleBatch


class Classification(pl.LightningModule):
    """Online EM of class averages.

    Args:
        model: the classes.
        grid: polar grid of the particles.
        search: pose grids.
        plan: which particles each iteration visits.
        settings: schedules and choices of the E-step.
        make_optimizer: builds the optimizer of the model.
        halves: half-set of every particle ``[n]``.
        optics: optics group of every particle ``[n]``.
        pixel_size: of the working box (Angstrom).
        ranks: the processes of the run.
        shares: rows that each of them visits; None if there is one.
    """

    def __init__(
        self,
        model: ClassModel,
        grid: PolarGrid,
        search: PoseSearch,
        plan: Plan,
        settings: EmSettings,
        make_optimizer: Callable[[ClassModel], OnlineEM],
        *,
        halves: Tensor,
        optics: Tensor,
        pixel_size: float,
        ranks: Ranks = ALONE,
        shares: Shares | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.model, self.grid, self.search = model, grid, search
        self.plan, self.settings = plan, settings
        self.make_optimizer, self.pixel_size = make_optimizer, pixel_size
        self.ranks, self.shares = ranks, shares
        self.summary: IterationSummary | None = None
        self.halves: Tensor
        self.optics: Tensor
        self.scale: Tensor
        self.gains: Tensor  # of each particle's class average over a free blob, NaN at first
        self.pull: Tensor  # of the prior of shifts, 0 at first
        self.typical: Tensor  # gain of a usual member of each class, 0 at first
        self.register_buffer("halves", halves, persistent=False)
        self.register_buffer("optics", optics, persistent=False)
        self.register_buffer("scale", torch.ones(len(halves)))
        self.register_buffer("gains", torch.full((len(halves),), math.nan))
        self.register_buffer("typical", torch.zeros(model.num_classes))
        self.register_buffer("pull", torch.zeros(()))
        self._found: dict[str, Tensor] = {}
        self._faint: bool | None = None  # whether particles gain too little to tell their poses
        self._judgement: Judgement | None = None  # of the last iteration
        self._sums: Sums | None = None
        self._scorers: list[PoseScorer] = []  # of everything, or of each half-set
        self._junk: Gathering | None = None  # where it goes
        self._portions, self._threads = Portions(), Threads(1)

    @property
    def box(self) -> int:
        """Size of the class averages (pixel)."""
        return self.grid.box

    @property
    def frequency(self) -> Tensor:
        """Spatial frequency of the rings ``[s]`` (1/Angstrom)."""
        return self.grid.radii / (self.grid.box * self.pixel_size)

    @property
    def assignments(self) -> Assignments | None:
        """What was last found for every particle, on the CPU; NaN posterior if never visited."""
        if not self._found:
            return None
        return Assignments(**{name: value.cpu() for name, value in self._found.items()})

    def configure_optimizers(self) -> Any:
        """The online EM and its step-size schedule."""
        optimizer = self.make_optimizer(self.model)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.settings.step_size)
        return [optimizer], [schedule]

    def on_fit_start(self) -> None:
        """As many threads as torch was given; a GPU needs no more than one."""
        self._threads = Threads(torch.get_num_threads() if self.device.type == "cpu" else 1)
        torch.set_num_threads(1)  # its own wait for each other after every operation

    def on_train_epoch_start(self) -> None:
        """Prepare the references of this iteration."""
        iteration = self.current_epoch
        self._started = time.perf_counter()
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + iteration)
        offset = float(torch.rand((), generator=generator)) - 0.5
        with torch.no_grad():
            self._scorers = self._threads(
                lambda _, references: PoseScorer(
                    references,
                    self.grid,
                    self.search,
                    rings=self.settings.rings(iteration),
                    first_ring=self.settings.first_ring,
                    jitter=offset if self.settings.perturb_poses else 0.0,
                    pull=self.pull,
                ),
                self._references(iteration),
            )
            self._sums = self._no_particles()
        self._visits = VisitLog()
        # particles that kept their class, and particles that had one
        self._kept = torch.zeros(2, device=self.device)
        self._found = {name: value.to(self.device) for name, value in self._found.items()}
        self._junk, self._judgement, judge = None, None, self.settings.judge
        if judge and len(self._scorers) > 1 and iteration == self.plan.total - 1:
            self._judgement = judge.begin(self._online, self.search.max_shift, len(self.halves))
        faint = self.settings.faint
        if faint and iteration == faint.iteration:
            self._faint = faint(self.gains, self._scorers[0].log_choices)
        if self.plan.is_full(iteration) and self._found:
            gains = Gains.of(self.gains, self._found["class_index"], self.model.num_classes)
            self.typical.copy_(gains.typical)
            if self.settings.gather_junk:
                self._junk = gains.gathering(self._scorers[0].log_choices, self.model.frc)

    @property
    def _online(self) -> OnlineEM:
        """The optimizer itself, without Lightning's wrapper."""
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]

    @torch.no_grad()
    def training_step(self, batch: ParticleBatch, batch_idx: int) -> None:
        """One chunk of particles; the last chunk steps."""
        assert self._sums is not None
        if len(batch):
            self._portions(batch, self._sums.as_dict(), self._visit)
        if self.trainer.is_last_batch:
            self._finish(self.current_epoch, self.settings.uncertainty(self.current_epoch))

    def _visit(self, batch: ParticleBatch) -> None:
        """Weigh particles, find their classes and poses, and keep what was found."""
        assert self._sums is not None
        batch = replace(batch, scale=self.scale[batch.index])
        shares = self._shares_of(batch)
        # each thread has sums of its own
        sums = [self._sums, *(self._no_particles() for _ in range(self._threads.count - 1))]
        parts = self._threads(
            lambda thread, share: self._search(
                self._weighed(batch[share[1]]), share[0], sums[thread]
            ),
            shares,
        )
        for other in sums[1:]:
            self._sums.add_(other)
        order = torch.cat([rows for _, rows in shares]).argsort()
        found = Assignments.joined(parts)[order]
        self._count_kept(batch.index, found)
        self._record(batch.index, found)

    def _shares_of(self, batch: ParticleBatch) -> list[tuple[PoseScorer, Tensor]]:
        """Rows of a batch that are worked on together, with the references to compare with."""
        count = len(self._scorers)
        most = len(batch) if batch.rings.is_cuda else PORTION
        return [
            (scorer, rows)
            for half, scorer in enumerate(self._scorers)
            for rows in self._threads.dealt((batch.half % count == half).nonzero()[:, 0], most)
        ]

    def _weighed(self, batch: ParticleBatch) -> WeightedImages:
        """Particles with CTF and noise on them."""
        return weigh(
            batch,
            self.grid,
            pixel_size=self.pixel_size,
            noise=self.model.noise,
            transfer=self.settings.transfer,
            independent=self.settings.independent,
        )

    def _no_particles(self) -> Sums:
        """Sums of nothing yet, with what varies in each class where the optimizer wants it."""
        iteration, optimizer, count = self.current_epoch, self._online, self.model.num_classes
        stats = SufficientStats.zeros(self.grid, count, len(self.model.noise), self.device)
        if self.plan.is_full(iteration) or not optimizer.looks_at_variety(iteration):
            return Sums(stats)
        if self._sums is None:
            self._described = optimizer.averages_and_components(iteration)
        return Sums(stats, VarietySums.zeros(optimizer.variety_grid, count, self.device))

    def _references(self, iteration: int) -> tuple[Tensor, ...]:
        """The averages to align to ``[k y x]``: one for all, or one of each half-set."""
        halves = self._online.halves
        if iteration < self.settings.parting or halves is None:
            return (self.model.references.detach(),)
        return halves[0], halves[1]

    def _search(self, images: WeightedImages, scorer: PoseScorer, sums: Sums) -> Assignments:
        """Find classes and poses, and add the particles to the sums."""
        iteration, stats = self.current_epoch, sums.stats
        posterior = self.settings.decided(self._faint)(
            scorer,
            images,
            log_prior=self._junk.log_prior if self._junk else torch.zeros_like(self.typical),
            uncertainty=self.settings.uncertainty(iteration),
        )
        peak = posterior.peak()
        gain, typical = self._gains_of(peak, images, scorer)
        outlier, best = outlier_of(gain, typical), peak.best_poses
        taken = adjoint(self.grid, images.image, best.psi, best.shift)
        # the noise is what is left by the class a particle looks like, even if it is junk
        add_residual(stats, self.grid, images, best, scorer.harmonics, taken)
        if sums.variety is not None:
            rings = self._online.variety_grid
            add_variety(sums.variety, rings, images, best, *self._described, taken)
        if self._junk is not None:
            apart = self._junk.takes(gain, typical, best.classes)
            posterior = posterior.moved(apart, self._junk.into)
        hard = self.settings.hard_last and iteration == self.plan.total - 1
        (posterior.hard() if hard else posterior).add_to(stats, self.grid, images, taken)
        power = images.power[:, self._band(iteration)].sum(1)
        found = posterior.peak().assignments(power, images.scale, self.pixel_size, outlier)
        if self._judgement is not None:
            other = next(one for one in self._scorers if one is not scorer)
            found = self._judgement(found, images, other)
        return found

    def _gains_of(
        self, peak: Posterior, images: WeightedImages, scorer: PoseScorer
    ) -> tuple[Tensor, Tensor]:
        """Gains over a free blob, and typical ones, of earlier iterations or this batch ``[n]``."""
        band = slice(self.settings.first_ring, scorer.coarse.grid.num_rings)
        weights = self._samples.to(self.device)[band]
        gain = peak.gain - free_blob(images.power[:, band], weights)
        self.gains[images.index] = gain
        typical = self.typical[peak.best_poses.classes]
        return gain, torch.where(typical > 0, typical, gain.median())

    @property
    def _samples(self) -> Tensor:
        """Independent Fourier samples of each ring ``[s]``."""
        return self.settings.independent * self.grid.ring_weights

    def _band(self, iteration: int) -> slice:
        """Rings that an iteration aligns on."""
        return slice(self.settings.first_ring, self.settings.rings(iteration))

    def _log_noise(self) -> Tensor:
        """Logarithm of the noise power, mean over the particles ``[s]``."""
        share = torch.bincount(self.optics, minlength=len(self.model.noise)) / len(self.optics)
        return share.to(self.model.noise) @ self.model.noise.log()

    def _count_kept(self, index: Tensor, found: Assignments) -> None:
        """Count who had a class before, and who kept it."""
        if self._found:
            had_one = ~self._found["class_posterior"][index].isnan()
            same = self._found["class_index"][index] == found.class_index
            self._kept += torch.stack([same & had_one, had_one]).sum(1)

    def _record(self, index: Tensor, found: Assignments) -> None:
        """Keep what was found for the visited particles."""
        self._visits.add(found)
        for field in fields(found):
            value = getattr(found, field.name)
            if field.name not in self._found:
                missing = 0 if value.dtype == torch.int64 else float("nan")
                size = (len(self.halves), *value.shape[1:])
                self._found[field.name] = value.new_full(size, missing)
            self._found[field.name][index] = value
        if self.settings.scale_per_particle:
            self.scale[index] = found.alpha_min.clamp(0.0, 2.0 * MOST_SCALE)

    def _finish(self, iteration: int, uncertainty: float) -> None:
        """The M-step of an iteration and its summary."""
        assert self._sums is not None
        optimizer = self.optimizers()
        gamma = float(optimizer.param_groups[0]["lr"])  # type: ignore[union-attr]
        full = self.plan.is_full(iteration)
        sums = self._shared(self._sums, iteration)
        band, log_noise = self._band(iteration), self._log_noise()
        solution: Solution = optimizer.step(  # type: ignore[call-arg, assignment, union-attr]
            stats=sums.stats,
            iteration=iteration,
            whole=full,
            variety=sums.variety,
            apart=iteration + 1 >= self.settings.parting,
            workers=self._threads,
        )
        if self.settings.scale_per_particle:
            self.scale.copy_(normalised(self.scale, self.optics, len(self.model.noise)))
        self.lr_schedulers().step()  # type: ignore[union-attr, call-arg]
        kept, seen = self._kept.tolist()
        self.summary = summarize(
            self._visits,
            solution,
            self.model,
            Step(
                iteration=iteration,
                num_iterations=self.plan.total,
                full=full,
                uncertainty=uncertainty,
                resolution=1.0 / float(self.frequency[band.stop - 1]),
                step_size=1.0 if full else gamma,
            ),
            frequency=self.frequency,
            ring_weights=self._samples[band],
            log_noise=log_noise[band].cpu(),
            unchanged=kept / seen if seen else math.nan,
            seconds=time.perf_counter() - self._started,
        )
        if self._found:
            if iteration + 1 >= self.settings.centring:
                self.pull = shift_pull(self._found["shift"] / self.pixel_size, self.gains)
            if self._judgement is not None:
                self._found["class_posterior"] = self._judgement.told(self._found)
            # nothing is known of the members of a class that was begun anew
            begun = self._online.begun.to(self.device)
            self.gains[torch.isin(self._found["class_index"], begun)] = math.nan
        self.typical.fill_(float(self.gains.nanmedian()))
        self._sums, self._scorers = None, []

    def _shared(self, sums: Sums, iteration: int) -> Sums:
        """The sums over all processes, which also tell what each has found."""
        if self.ranks.size == 1 or self.shares is None:
            return sums
        seen = self._kept[:0] if self._judgement is None else self._judgement.seen
        *total, self._kept, seen = self.ranks.total([*sums.as_dict().values(), self._kept, seen])
        if self._judgement is not None:
            self._judgement.seen = seen
        rows = self.shares.split(self.plan.rows(iteration))
        gains = self.gains[rows[self.ranks.rank], None]
        own = torch.cat((self._visits.matrix(self.device), gains), dim=1)
        self._visits = VisitLog()
        parts = self.ranks.columns(own, [len(part) for part in rows])
        for rank, (index, part) in enumerate(zip(rows, parts, strict=True)):
            found = unpacked(part[:, :-1])
            if rank == self.ranks.rank:
                self._visits.add(found)
            elif len(index):
                self._record(index, found)
                self.gains[index] = part[:, -1]
        return sums.replaced(total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what is handed over in the end too: there may be no iteration left to find it."""
        checkpoint["assignments"] = dict(self._found)
        # the same run leaves the same checkpoint, however long it took
        summary = None if self.summary is None else vars(self.summary) | {"seconds": 0.0}
        checkpoint["summary"] = summary
        checkpoint["faint"] = self._faint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it back."""
        self._found = dict(checkpoint["assignments"])
        summary, self._faint = checkpoint["summary"], checkpoint.get("faint")
        self.summary = None if summary is None else IterationSummary(**summary)
