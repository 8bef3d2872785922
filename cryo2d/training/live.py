"""A classification whose particles keep arriving: Lightning's module and data."""

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from cryo2d.data.cache import ParticleCache
from cryo2d.data.feed import Delivery, Feed
from cryo2d.data.growing import GrowingParticles
from cryo2d.data.prepared import PreparedParticles
from cryo2d.data.store import InMemory
from cryo2d.data.visits import GrowingPlan
from cryo2d.io.merging import merged
from cryo2d.io.particles import Excluded, ParticleTable
from cryo2d.physics.preprocess import Preprocessor
from cryo2d.training.datamodule import BatchStream, batch_size_of
from cryo2d.training.interruption import Interruption
from cryo2d.training.module import Classification
from cryo2d.training.ranks import ALONE

log = logging.getLogger(__name__)

STOP = "STOP"
"""File in the run folder that ends the job with its last passes."""

LONGEST_NAP = 1.0


class LiveClassification(Classification):
    """Online EM whose particles and optics groups become more; no class ever changes its number."""

    def grow(self, halves: Tensor, optics: Tensor, power: Tensor) -> None:
        """Make room for all particles there are by now.

        Args:
            halves: half-set of every particle ``[n]``.
            optics: optics group of every particle ``[n]``.
            power: first noise power of every optics group ``[g s]``; groups known keep theirs.
        """
        count, device = len(halves), self.device
        self.halves, self.optics = halves.to(device), optics.to(device)
        self.scale = extended(self.scale, torch.ones(count, device=device))
        self.gains = extended(self.gains, torch.full((count,), math.nan, device=device))
        self._found = {name: extended(v, _missing(v, count)) for name, v in self._found.items()}
        noise = self.model.noise
        self.model.noise = extended(noise, power.to(noise))
        if self._trainer is not None and self.trainer.optimizers:
            for held in self.trainer.optimizers[0].state.values():
                grow_groups(held, len(power))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the state of fewer particles and groups than there are by now."""
        state = checkpoint["state_dict"]
        count = len(self.halves)
        state["scale"] = extended(state["scale"], torch.ones(count))
        state["gains"] = extended(state["gains"], torch.full((count,), math.nan))
        state["model.noise"] = extended(state["model.noise"], self.model.noise.cpu())
        for optimizer in checkpoint["optimizer_states"]:
            for held in optimizer["state"].values():
                grow_groups(held, len(self.model.noise))
        super().on_load_checkpoint(checkpoint)
        self._found = {name: extended(v, _missing(v, count)) for name, v in self._found.items()}


def extended(values: Tensor, whole: Tensor) -> Tensor:
    """The values, then the rest of the whole: what comes after as many of its rows."""
    return torch.cat([values, whole[len(values) :].to(values)])


def _missing(values: Tensor, count: int) -> Tensor:
    """Assignments of particles never visited."""
    value = 0 if values.dtype == torch.int64 else float("nan")
    return torch.full((count, *values.shape[1:]), value, dtype=values.dtype)


def grow_groups(held: dict[str, Tensor], groups: int) -> None:
    """Give the running sums of the noise room for more optics groups."""
    for name in ("power", "particles"):
        if name in held:
            shape = (groups, *held[name].shape[1:])
            held[name] = extended(held[name], torch.zeros(shape))


class LiveParticles(pl.LightningDataModule):
    """Serves batches of particles that a feed delivers, and waits for them.

    Args:
        feed: where the particles come from.
        plan: which of them an iteration visits.
        seed: of the half-sets.
        device: where preprocessing runs and the particles stay.
        threads: reading threads.
        folder: of the run, where a file ``STOP`` ends it.
        poll: time between two looks at the source (s).
        idle: after so long without new particles the end begins (s); None to wait for ever.
        most: particles after which no more are taken, or None.
        int8_signed: meaning of MRC mode 0.
        memory_fraction: part of the free memory that the particles may take.
    """

    def __init__(
        self,
        feed: Feed,
        plan: GrowingPlan,
        *,
        seed: int,
        device: torch.device,
        threads: int,
        folder: Path,
        poll: float,
        idle: float | None,
        most: int | None = None,
        int8_signed: bool = True,
        memory_fraction: float = 0.8,
    ) -> None:
        super().__init__()
        self.feed, self.plan, self.folder = feed, plan, folder
        self.device, self.threads, self.poll, self.idle = device, threads, poll, idle
        self.most, self.int8_signed = most, int8_signed
        self.memory_fraction = memory_fraction
        self.held = GrowingParticles(str(feed.watch), seed)
        self.preprocessor: Preprocessor | None = None
        self.interruption = Interruption()
        # one process: what comes is for all classes
        self.ranks, self.shares = ALONE, None
        self._waiting: list[ParticleTable] = []
        self._arrived = feed.clock.now()

    @property
    def table(self) -> ParticleTable:
        """Usable particles ``[n]``."""
        return self.held.tables()[0]

    @property
    def excluded(self) -> Excluded:
        """The others."""
        return self.held.tables()[1]

    @property
    def cache(self) -> ParticleCache:
        """The particles."""
        assert self.held.cache is not None
        return self.held.cache

    @property
    def batch_size(self) -> int:
        """Particles handled at once."""
        assert self.preprocessor is not None
        return batch_size_of(self.preprocessor.grid, self.device)

    @property
    def arrived(self) -> int:
        """Particles that have arrived so far."""
        return len(self.held) + sum(map(len, self._waiting))

    @property
    def is_over(self) -> bool:
        """Whether the end is asked for, or nothing has come for long enough."""
        quiet = self.feed.clock.now() - self._arrived
        is_idle = self.idle is not None and quiet >= self.idle
        is_enough = self.most is not None and self.arrived >= self.most
        return self.interruption.asked or is_idle or is_enough or (self.folder / STOP).exists()

    def receive(self, deliveries: Sequence[Delivery]) -> None:
        """Take what a feed has delivered."""
        for delivery in deliveries:
            self.held.leave_out(delivery.excluded)
            if delivery.table is not None:
                self._waiting.append(delivery.table)
                self._arrived = self.feed.clock.now()

    def wait(self, is_enough: Callable[[], bool]) -> None:
        """Look for new particles, until there are enough or the end has come."""
        while True:
            self.receive(self.feed.poll())
            if is_enough() or self.is_over:
                return
            left = self.poll
            while left > 0 and not self.interruption.asked:
                nap = min(left, LONGEST_NAP)
                self.feed.clock.sleep(nap)
                left -= nap

    @property
    def waiting(self) -> ParticleTable | None:
        """Particles that have arrived and not been read, None if there are none."""
        return merged(self._waiting, self.held.source) if self._waiting else None

    def read(self) -> int:
        """Read the images of what has arrived; how many could be used."""
        before = len(self.held)
        assert self.preprocessor is not None
        for table in self._waiting:
            prepared = PreparedParticles(
                table, self.preprocessor, self.threads, self.int8_signed, self.device
            )
            filled = InMemory(self.memory_fraction).fill(prepared, lambda _: None)
            assert isinstance(filled.samples, Tensor)
            bad = np.array(sorted(filled.bad), int)
            if len(bad):
                reasons = tuple(filled.bad[int(row)] for row in bad)
                self.held.leave_out([Excluded(table.take(bad), reasons)])
            kept = np.setdiff1d(np.arange(len(table)), bad)
            if len(kept):
                self.held.add(table.take(kept), filled.samples, self.device)
        self._waiting = []
        count = len(self.held) - before
        self.plan.grow(count)
        return count

    def train_dataloader(self) -> BatchStream:
        """Batches of the iteration about to run, once there are particles for it."""
        assert self.trainer is not None
        # Lightning has taken them for itself when it began
        self.interruption.listen()
        plan, iteration = self.plan, self.trainer.current_epoch
        plan.now = iteration
        if plan.last is None:
            # what is due and what has just come; none is read before there is enough of it
            self.wait(lambda: iteration < plan.iterations or self._is_due())
            count = self.read()
            if count:
                self._grow(count)
            # the opening is seen through, unless it is interrupted
            if self.is_over and iteration >= plan.iterations and self._has_last_passes:
                plan.close(iteration)
        if iteration == plan.iterations:
            log.info("From here on every class keeps its number and its view.")
        rows = plan.rows(iteration)
        plan.visit(rows)
        # without last passes a run ends with this batch
        ends = plan.last is None and self._ends(iteration)
        self.trainer.fit_loop.max_epochs = iteration + 1 if ends else plan.total
        return BatchStream(self.cache, rows, self.batch_size)

    @property
    def _has_last_passes(self) -> bool:
        return not self.interruption.asked and self.plan.full_iterations > 0

    def _ends(self, iteration: int) -> bool:
        return self.interruption.asked or (self.is_over and iteration >= self.plan.iterations)

    def _is_due(self) -> bool:
        return self.plan.due + sum(map(len, self._waiting)) >= self.plan.fresh

    def _grow(self, count: int) -> None:
        cache, module = self.cache, self.trainer.lightning_module  # type: ignore[union-attr]
        assert isinstance(module, LiveClassification)
        noise, groups = module.model.noise, self.held.num_groups
        power = cache.mean_power(groups) if groups > len(noise) else noise
        module.grow(cache.half, cache.optics, power)
        log.info("%s more particles: %s.", f"{count:,}", f"{len(cache):,}")

    def state_dict(self) -> dict[str, Any]:
        """How often each particle was visited."""
        return {"counts": self.plan.counts, "last": self.plan.last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the visits back; particles that came since have none."""
        counts = state_dict["counts"]
        self.plan.counts = extended(counts, torch.zeros_like(self.plan.counts))
