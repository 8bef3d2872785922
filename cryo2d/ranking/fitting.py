"""A ranker from labelled classes, and how well it does on molecules it has not seen."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from cryo2d.ranking.features import FEATURES
from cryo2d.ranking.ranker import Ranker, standardised

Array = NDArray[Any]


@dataclass(frozen=True)
class Fit:
    """Fits rankers: several small networks, whose log odds are averaged, each by Adam.

    After every step the weights that must not be negative are cut at 0.

    Args:
        networks: that are averaged.
        units: hidden ones of each.
        steps: of the optimisation.
        penalty: of the squared weights.
        noise: standard deviation of what is added to the standardised features at every step.
        seed: of the first weights and of the noise.
    """

    networks: int = 3
    units: int = 10
    steps: int = 250
    penalty: float = 2e-3
    noise: float = 0.2
    seed: int = 0

    def __call__(
        self,
        features: Mapping[str, Array],
        good: Array,
        about: Mapping[str, Any],
        weight: Array | None = None,
    ) -> Ranker:
        """Fit.

        Args:
            features: by name ``[k]`` each.
            good: which classes are good ``[k]`` (bool).
            about: what the ranker says of itself.
            weight: of each class ``[k]``; None for equal ones.
        """
        weight = np.ones(len(good)) if weight is None else weight
        names = tuple(features)
        values = np.stack([features[name] for name in names], axis=1)
        known = np.isfinite(values)
        number = np.maximum(known.sum(0), 1)
        mean = np.where(known, values, 0.0).sum(0) / number
        square = np.where(known, (values - mean) ** 2, 0.0).sum(0) / number
        deviation = np.sqrt(square) + 1e-6
        directed = torch.tensor([FEATURES[name] != 0 for name in names])
        sign = np.array([FEATURES[name] or 1 for name in names])
        inputs = standardised(values, mean, deviation, sign)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            parts = [self._network(inputs, good, weight, directed) for _ in range(self.networks)]
        first, bias, second, offset = zip(*parts, strict=True)
        return Ranker(
            features=names,
            mean=mean,
            deviation=deviation,
            typical=np.median(inputs[good], axis=0) if good.any() else np.zeros(len(names)),
            first=np.concatenate(first, axis=1),
            bias=np.concatenate(bias),
            second=np.concatenate(second) / self.networks,
            offset=float(np.mean(offset)),
            about=about,
        )

    def _network(
        self, inputs: Array, good: Array, weight: Array, directed: Tensor
    ) -> tuple[Array, Array, Array, float]:
        """Weights of one network: first, bias, second and offset."""
        data, target, counted = (torch.from_numpy(v).float() for v in (inputs, good, weight))
        first = 0.2 * torch.randn(inputs.shape[1], self.units)
        first = torch.where(directed[:, None], first.abs(), first).requires_grad_()
        bias = (0.5 * torch.randn(self.units)).requires_grad_()
        second = (0.5 * torch.rand(self.units)).requires_grad_()
        offset = torch.zeros(()).requires_grad_()
        optimizer = torch.optim.Adam([first, bias, second, offset], lr=0.03)
        for _ in range(self.steps):
            optimizer.zero_grad()
            seen = data + self.noise * torch.randn_like(data)
            odds = torch.tanh(seen @ first + bias) @ second + offset
            loss = binary_cross_entropy_with_logits(odds, target, counted)
            loss = loss + self.penalty * (first.square().sum() + second.square().sum())
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                second.clamp_(min=0.0)
                first.copy_(torch.where(directed[:, None], first.clamp(min=0.0), first))
        weights = [part.detach().double().numpy() for part in (first, bias, second)]
        return weights[0], weights[1], weights[2], float(offset.detach())


def held_out(
    features: Mapping[str, Array],
    good: Array,
    clear: Array,
    group: Array,
    fit: Fit,
    weight: Array | None = None,
) -> Array:
    """Log odds of every class ``[k]`` by a ranker that has seen no class of its group.

    Args:
        features: by name ``[k]`` each.
        good: which classes are good ``[k]`` (bool).
        clear: which classes may be learnt from ``[k]`` (bool).
        group: of each class ``[k]``.
        fit: how rankers are fitted.
        weight: of each class ``[k]``; None for equal ones.
    """
    odds, weight = np.zeros(len(good)), np.ones(len(good)) if weight is None else weight
    for one in np.unique(group):
        own, seen = group == one, (group != one) & clear
        known = {name: values[seen] for name, values in features.items()}
        ranker = fit(known, good[seen], {}, weight[seen])
        unseen = {name: values[own] for name, values in features.items()}
        odds[own] = ranker.log_odds(ranker.inputs(unseen))
    return odds


def roc(score: Array, good: Array) -> tuple[Array, Array]:
    """Shares of the bad and of the good classes above each score, from (0, 0) to (1, 1)."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(score) - 1)
    right, wrong = np.cumsum(good[order])[last], np.cumsum(~good[order])[last]
    true, false = right / max(good.sum(), 1), wrong / max((~good).sum(), 1)
    return np.append(0.0, false), np.append(0.0, true)


def area_under(score: Array, good: Array) -> float:
    """Area under the ROC curve: the chance that a good class has a higher score than a bad one."""
    if good.all() or not good.any():
        return float("nan")
    false, true = roc(score, good)
    return float((np.diff(false) * (true[1:] + true[:-1]) / 2).sum())
