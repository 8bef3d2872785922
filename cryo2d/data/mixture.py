"""Two Gaussian populations in one column."""

from dataclasses import dataclass

import numpy as np

ITERATIONS = 500
LEAST_GAIN = 1e-7  # of the mean log likelihood in one iteration
LEAST_SPREAD = 1e-3  # of a component, as a part of the spread of all


@dataclass(frozen=True)
class Mixture:
    """Weights, means and standard deviations of two Gaussians, lower mean first ``[2]`` each."""

    weight: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @property
    def separation(self) -> float:
        """Distance of the means in units of the deviations (Ashman's D); above 2 is clear."""
        return float(np.sqrt(2) * np.diff(self.mean)[0] / max(np.hypot(*self.deviation), 1e-300))

    def densities(self, values: np.ndarray) -> np.ndarray:
        """Weighted density of each component ``[2 n]``."""
        scaled = (values - self.mean[:, None]) / self.deviation[:, None]
        height = self.weight / (np.sqrt(2 * np.pi) * self.deviation)
        return height[:, None] * np.exp(-0.5 * scaled**2)

    @property
    def cut(self) -> float:
        """Value between the means where both components are equally likely."""
        between = np.linspace(self.mean[0], self.mean[1], 20001)
        low, high = self.densities(between)
        return float(between[np.argmax(high >= low)]) if (high >= low).any() else float(between[-1])


def fit_mixture(values: np.ndarray) -> Mixture:
    """Maximum-likelihood fit of two Gaussians by EM (Dempster et al. 1977).

    Started from the lower and the upper half of the values.

    Args:
        values: finite numbers ``[n]``, not all the same.
    """
    spread = values.std()
    assert spread > 0, "values that differ"
    lower = values <= np.median(values)
    if lower.all():
        lower = values < np.median(values)
    share = np.stack([lower, ~lower]).astype(float)
    before = -np.inf
    for _ in range(ITERATIONS):
        total = np.maximum(share.sum(1), 1e-12)
        mean = share @ values / total
        variance = (share * (values - mean[:, None]) ** 2).sum(1) / total
        deviation = np.maximum(np.sqrt(variance), LEAST_SPREAD * spread)
        mixture = Mixture(total / total.sum(), mean, deviation)
        density = mixture.densities(values)
        both = np.maximum(density.sum(0), 1e-300)
        share = density / both
        likelihood = float(np.log(both).mean())
        if likelihood - before < LEAST_GAIN:
            break
        before = likelihood
    order = np.argsort(mixture.mean)
    return Mixture(mixture.weight[order], mixture.mean[order], mixture.deviation[order])
