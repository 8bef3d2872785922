"""What a run is judged by: one number of its last iteration, which a sweeper compares."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from cryo2d.types import Assignments, IterationSummary

Objective = Callable[[IterationSummary, Assignments], float]


def mean_frc_resolution(summary: IterationSummary, found: Assignments) -> float:
    """Resolution (Angstrom) of the class a particle is in, at FRC 0.143, mean over the particles.

    The mean is that of the spatial frequency, so that a class without signal cannot outweigh all
    others. Compare it between runs with as many classes: it favours few, large ones.
    """
    share = summary.counts / summary.counts.sum()
    return float(1.0 / (share / summary.class_resolution[:, 1]).sum())


def effective_classes(summary: IterationSummary, found: Assignments) -> float:
    """exp of the entropy of the class sizes."""
    return summary.effective_classes


def stability(summary: IterationSummary, found: Assignments) -> float:
    """Part of the particles that kept their class in the last iteration."""
    return summary.unchanged


def junk_separation(summary: IterationSummary, found: Assignments) -> float:
    """Part of the variance of the particles' fit that lies between the classes.

    The fit is the correlation of a particle with its average; junk fits badly. Near 1 particles of
    unlike quality are in different classes, 0 as expected of random ones (epsilon squared, Kelley
    1935: the correlation ratio, adjusted for the number of classes).
    """
    norm = (found.image_pow * found.slice_pow).clamp(min=1e-20).sqrt()
    return epsilon_squared((found.cross_cor / (2 * norm)).double(), found.class_index)


def likelihood(summary: IterationSummary, found: Assignments) -> float:
    """Mean log-likelihood of a Fourier sample at its particle's best pose, but for a constant.

    Compare it between runs with the same particles and bands (``max_resolution`` and the limits of
    the alignment).
    """
    return summary.log_likelihood


OBJECTIVES: Mapping[str, Objective] = {
    function.__name__: function
    for function in (
        mean_frc_resolution,
        effective_classes,
        stability,
        junk_separation,
        likelihood,
    )
}

USUAL = "mean_frc_resolution"


def epsilon_squared(values: Tensor, classes: Tensor) -> float:
    """Part of the variance of ``[n]`` values between their classes, 0 for random classes."""
    known = torch.isfinite(values)
    values, classes = values[known], classes[known]
    size = torch.bincount(classes)
    used = int((size > 0).sum())
    total = ((values - values.mean()) ** 2).sum()
    if len(values) <= used or total == 0:
        return 0.0
    mean = torch.zeros(len(size), dtype=values.dtype).index_add_(0, classes, values)
    mean /= size.clamp(min=1)
    within = ((values - mean[classes]) ** 2).sum()
    return float(1.0 - within / total * (len(values) - 1) / (len(values) - used))
