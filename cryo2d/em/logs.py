"""Sums and maxima of log weights, over an axis or over the segments of a list."""

import math

import torch
from torch import Tensor

NOTHING = 1e-35  # part of a sum that is as good as nothing
_GROUP = 32  # values of which the largest is looked at first, at most


def raised_(logs: Tensor) -> Tensor:
    """Exponentials of logarithms that hardly exceed 0, in place, and at least :data:`NOTHING`.

    What float32 holds with fewer bits than usual takes ten times as long.
    """
    return logs.clamp_(min=math.log(NOTHING)).exp_()


def log_total_(logs: Tensor, dim: int = 0) -> Tensor:
    """Log of the summed exponentials over an axis; what it is given is lost."""
    top = logs.amax(dim, keepdim=True)
    return top.squeeze(dim) + raised_(logs.sub_(top)).sum(dim).log()


def log_breadth_(scores: Tensor, most: Tensor, scale: Tensor) -> Tensor:
    """Log of the likelihood summed over the poses of each class, less that of the best.

    The scores are lost. A class at a time stays in the caches of a CPU.

    Args:
        scores: ``[k r n]``.
        most: the largest of them ``[k 1 n]``.
        scale: log likelihood over score ``[n]``.
    """
    parts = (scores,) if scores.is_cuda else scores.split(1)
    tops = most.split(len(parts[0]))
    sums = [
        raised_(part.sub_(top).mul_(scale)).sum(1) for part, top in zip(parts, tops, strict=True)
    ]
    return torch.cat(sums).log()


def most_of(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest of each column ``[r n]`` and their rows ``[c n]``, in falling order.

    They are in the groups with the largest maxima, which are far fewer than the rows.
    """
    size = next(size for size in range(_GROUP, 0, -1) if len(values) % size == 0)
    grouped = values.unflatten(0, (-1, size)).amax(1)
    best = grouped.topk(min(count, len(grouped)), dim=0).indices
    inside = torch.arange(size, device=values.device)[:, None]
    rows = (best[:, None] * size + inside).flatten(0, 1)
    found, place = values.gather(0, rows).topk(min(count, len(rows)), dim=0)
    return found, rows.gather(0, place)


def rows_near(most: Tensor, margin: float) -> dict[int, Tensor]:
    """Particles that have each class within a margin of their best ``[n k c]``, by any measure."""
    near = (most >= most.amax(1, keepdim=True) - margin).any(2).T
    parts = near.nonzero()[:, 1].split(near.sum(1).tolist())
    return {k: rows for k, rows in enumerate(parts) if len(rows)}


def segment_logsumexp(logs: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Log of the summed exponentials of ``[p]`` values in each segment; -inf in an empty one."""
    top = torch.full((num_segments,), -torch.inf, device=logs.device)
    top = top.scatter_reduce(0, segment, logs, "amax", include_self=True)
    raised = torch.exp(logs - top[segment])
    return top + torch.zeros_like(top).index_add_(0, segment, raised).log()


def segment_softmax(logs: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Exponentials of ``[p]`` values over their sum in each segment; exact whatever their level."""
    top = torch.full((num_segments,), -torch.inf, device=logs.device)
    top = top.scatter_reduce(0, segment, logs, "amax", include_self=True)
    raised = torch.exp(logs - top[segment])
    return raised / torch.zeros_like(top).index_add_(0, segment, raised)[segment]


def segment_argmax(values: Tensor, segment: Tensor, num_segments: int) -> Tensor:
    """Row of the largest of ``[p]`` values in each segment, the first of equals; -1 in an empty."""
    top = torch.full((num_segments,), -torch.inf, device=values.device)
    top = top.scatter_reduce(0, segment, values, "amax")
    last = len(values)
    row = torch.arange(last, device=values.device)
    at_top = torch.where(values == top[segment], row, last)
    first = torch.full((num_segments,), last, device=values.device)
    first = first.scatter_reduce(0, segment, at_top, "amin")
    return torch.where(first < last, first, -1)
