"""What an iteration did, gathered for callbacks, loggers and reports."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cryo2d.em.model import ClassModel
from cryo2d.em.solve import Solution
from cryo2d.geometry.shells import resolution_at
from cryo2d.training.ranks import WIDTH, packed
from cryo2d.types import Assignments, IterationSummary


class VisitLog:
    """Assignments of the particles visited in one iteration."""

    def __init__(self) -> None:
        self._parts: list[Assignments] = []

    def add(self, found: Assignments) -> None:
        """Remember one batch."""
        self._parts.append(found)

    def matrix(self, device: torch.device) -> Tensor:
        """All batches as one matrix ``[n c]``; see :func:`cryo2d.training.ranks.packed`."""
        none = torch.empty((0, WIDTH), device=device)
        return torch.cat([none, *map(packed, self._parts)])

    def column(self, name: str) -> Tensor:
        """One column of all batches, on the CPU."""
        return torch.cat([getattr(part, name) for part in self._parts]).cpu()

    def error(self) -> Tensor:
        """Chi-squared of all visited particles ``[n]``, on the CPU."""
        return torch.cat([part.error for part in self._parts]).cpu()


def effective_number(weights: Tensor) -> float:
    """exp of the entropy of weights that sum to 1."""
    used = weights[weights > 0]
    return float(torch.exp(-(used * used.log()).sum()))


def class_mean(values: Tensor, classes: Tensor, counts: Tensor) -> Tensor:
    """Mean of per-particle values over the members of each class ``[k]``; 0 for empty classes."""
    total = torch.zeros(len(counts)).index_add_(0, classes, values.float())
    return total / counts.clamp(min=1)


@dataclass(frozen=True)
class Step:
    """What an iteration is, before it has run.

    Attributes:
        iteration: number from 0.
        num_iterations: of the run.
        full: whether every particle is visited.
        uncertainty: factor of the posterior.
        resolution: finest used (Angstrom).
        step_size: of the online update.
    """

    iteration: int
    num_iterations: int
    full: bool
    uncertainty: float
    resolution: float
    step_size: float


def class_resolution(frc: Tensor, frequency: Tensor) -> Tensor:
    """Resolution of each class at FRC 0.5 and at 0.143 ``[k 2]`` (Angstrom)."""
    limits = [resolution_at(frc, frequency, threshold) for threshold in (0.5, 0.143)]
    return torch.stack(limits, dim=1)


def summarize(
    visits: VisitLog,
    solution: Solution,
    model: ClassModel,
    step: Step,
    *,
    frequency: Tensor,
    ring_weights: Tensor,
    log_noise: Tensor,
    unchanged: float,
    seconds: float,
) -> IterationSummary:
    """Collect one iteration; see :class:`cryo2d.types.IterationSummary` for the fields.

    Args:
        visits: what was found for the visited particles.
        solution: new averages.
        model: the classes.
        step: what the iteration was.
        frequency: of the rings ``[s]`` (1/Angstrom).
        ring_weights: independent Fourier samples of each ring that chi-squared runs over ``[s]``.
        log_noise: logarithm of the noise power that it was measured with ``[s]``.
        unchanged: part of the visited particles that kept their class.
        seconds: wall time.
    """
    classes, posteriors, ess = map(visits.column, ("class_index", "class_posterior", "class_ess"))
    counts = torch.bincount(classes, minlength=model.num_classes)
    frc = solution.frc.cpu()
    samples = float(ring_weights.sum())
    mean_error = float(visits.error().mean()) / samples
    # complex Gaussian noise: -log(pi sigma^2) - |residual|^2 / sigma^2, without log(pi)
    log_likelihood = -float((log_noise @ ring_weights) / samples) - mean_error
    return IterationSummary(
        **vars(step),
        particles=len(classes),
        seconds=seconds,
        effective_classes=effective_number(model.weights.cpu()),
        mean_error=mean_error,
        unchanged=unchanged,
        log_likelihood=log_likelihood,
        averages=solution.averages.cpu(),
        counts=counts,
        weights=model.weights.cpu().clone(),
        class_resolution=class_resolution(frc, frequency),
        class_ess=class_mean(ess, classes, counts),
        class_probability=class_mean(posteriors, classes, counts),
        frc=frc,
        noise=model.noise.cpu().clone(),
        frequency=frequency.cpu(),
        posteriors=posteriors,
        ess=ess,
        scales=visits.column("alpha"),
        shifts=visits.column("shift").norm(dim=1),
    )
