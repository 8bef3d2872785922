"""Scores of class averages: a small monotone model of the features, and its reasons in words."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cryo2d.errors import InputError, Problem
from cryo2d.io.averages import ClassAverages
from cryo2d.ranking.features import BANDS, FEATURES, class_features

Array = NDArray[Any]

WEIGHTS = "weights.json"
SCORE, REASON = "score", "reason"

WORDS: Mapping[str, tuple[str, ...]] = {
    "low resolution": ("resolution", "resolution_half", "agreement", "overall", "waves", *BANDS),
    "particles fit other classes as well": ("certainty", "ambiguity"),
    "few particles": ("share", "count"),
    "little contrast, nearly empty": ("contrast", "strength"),
    "blurred edges, little detail": ("edges", "detail", "slope", "focus", "fine_focus"),
    "off-centre": ("off_centre",),
    "neighbours": ("rim", "beyond", "second"),
    "in several pieces": ("apart", "pieces"),
    "unlike the others in size": ("size", "odd_size", "filling"),
    "shapeless": ("compactness", "hollow", "turning"),
    "noise beyond its resolution (overfitted)": ("unsupported",),
    "a bright Fourier ring, as of ice": ("ring",),
}
"""What a reason says, and the features whose parts of the score it sums up."""

EMPTY, FINE = "no particles", "no fault found"
NOTABLE = 0.7  # parts of the log odds from here on are a reason
MOST_REASONS = 3
REMARKS: Mapping[str, tuple[str, ...]] = {
    "off-centre": ("off_centre",),
    "neighbours": ("second",),
    "in several pieces": ("apart", "pieces"),
}
"""What is always said where one of the features is conspicuous, whatever the score."""

REMARKABLE = 1.4  # deviations worse than in good classes
CLEAR = 0.9  # from this score on nothing is held against a class
WIDEST = 2.5  # deviations from the mean beyond which more does not count
ARRAYS = ("mean", "deviation", "typical", "first", "bias", "second")


@dataclass(frozen=True)
class ClassScores:
    """What a ranker thinks of classes.

    Attributes:
        score: 0 (bad) to 1 (good) ``[k]``.
        reasons: what speaks most against each class, in words ``[k]``.
    """

    score: Array
    reasons: tuple[str, ...]

    def added_to(self, classes: ClassAverages) -> ClassAverages:
        """The averages with ``score`` and ``reason`` as columns."""
        texts = np.array([text.encode() for text in self.reasons], dtype=bytes)
        columns = {**classes.columns, SCORE: self.score.round(4), REASON: texts}
        return replace(classes, columns=columns)


@dataclass(frozen=True)
class Ranker:
    """Log odds of a good class: a monotone network of one hidden layer (Sill 1998).

    odds = second . tanh(first^T z + bias) + offset, z the standardised features, each turned so
    that more is better where that is known; there ``first`` and everywhere ``second`` are >= 0.

    Attributes:
        features: names ``[f]``.
        mean: of each feature ``[f]``; it stands for a value that is not known.
        deviation: standard deviation of each ``[f]``.
        typical: standardised features of good classes ``[f]``.
        first: weights ``[f h]``.
        bias: of the hidden units ``[h]``.
        second: their weights ``[h]``.
        offset: of the log odds.
        about: how it was made and how well it did.
    """

    features: tuple[str, ...]
    mean: Array
    deviation: Array
    typical: Array
    first: Array
    bias: Array
    second: Array
    offset: float
    about: Mapping[str, Any]

    def __call__(self, classes: ClassAverages) -> ClassScores:
        """Score class averages."""
        size = len(classes)
        if not size:
            return ClassScores(np.zeros(0), ())
        inputs = self.inputs(class_features(classes))
        score = 1.0 / (1.0 + np.exp(-self.log_odds(inputs)))
        empty = classes.columns.get("count", np.ones(size)) == 0
        empty = empty | (np.ptp(classes.images, axis=(1, 2)) == 0)
        texts = [
            EMPTY if none else text
            for none, text in zip(empty, self.reasons(inputs, score), strict=True)
        ]
        return ClassScores(np.where(empty, 0.0, score), tuple(texts))

    def inputs(self, features: Mapping[str, Array]) -> Array:
        """Standardised features ``[k f]``."""
        values = np.stack([features[name] for name in self.features], axis=1)
        return standardised(values, self.mean, self.deviation, self.sign)

    @cached_property
    def sign(self) -> Array:
        """1 or -1: whether more or less of a feature is better ``[f]``; 1 if neither is known."""
        return np.array([FEATURES[name] or 1 for name in self.features])

    def log_odds(self, inputs: Array) -> Array:
        """Log odds of a good class ``[k]`` from standardised features ``[k f]``."""
        return np.tanh(inputs @ self.first + self.bias) @ self.second + self.offset

    def reasons(self, inputs: Array, score: Array) -> list[str]:
        """What speaks against each class, in words ``[k]``.

        First what would raise the log odds most if it were as in good classes; then what anyone
        would see in the average, whatever the score.
        """
        odds, lost = self.log_odds(inputs), {}
        for words, names in WORDS.items():
            better = inputs.copy()
            for f in [self.features.index(name) for name in names if name in self.features]:
                known = FEATURES[self.features[f]] != 0
                usual = np.full(len(inputs), self.typical[f])
                better[:, f] = np.maximum(inputs[:, f], usual) if known else usual
            lost[words] = self.log_odds(better) - odds
        found, usual = [], inputs - self.typical
        for k in range(len(score)):
            order = sorted(lost, key=lambda words: -lost[words][k])[:MOST_REASONS]
            notable = [words for words in order if lost[words][k] >= NOTABLE]
            if score[k] < 0.5 and not notable:
                notable = order[:1]
            notable = notable if score[k] < CLEAR else []
            notable += [w for w in REMARKS if w not in notable and self._remarkable(w, usual[k])]
            found.append(", ".join(notable) or FINE)
        return found

    def _remarkable(self, words: str, usual: Array) -> bool:
        """Whether a feature behind some words is much worse than in good classes."""
        at = [self.features.index(name) for name in REMARKS[words] if name in self.features]
        return bool((usual[at] < -REMARKABLE).any())

    def text(self) -> str:
        """The ranker as JSON."""
        parts = {f.name: _plain(getattr(self, f.name)) for f in fields(self)}
        lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in parts.items()]
        return "{\n" + ",\n".join(lines) + "\n}\n"


def standardised(values: Array, mean: Array, deviation: Array, sign: Array) -> Array:
    """Features ``[k f]`` as the network sees them: few deviations from the mean, 0 if unknown."""
    return np.clip(np.nan_to_num((values - mean) / deviation), -WIDEST, WIDEST) * sign


def _plain(value: Any) -> Any:
    """A value for JSON, numbers to four digits."""
    if isinstance(value, np.ndarray):
        return [_plain(v) for v in value.tolist()]
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def read_ranker(path: str | Path | None = None) -> Ranker:
    """Read a ranker that was written as JSON.

    Args:
        path: the file; None for the one that comes with the package.

    Raises:
        InputError: if the file is none.
    """
    name = WEIGHTS if path is None else str(path)
    try:
        if path is None:
            text = resources.files(__package__).joinpath(WEIGHTS).read_text(encoding="utf-8")
        else:
            text = Path(path).read_text(encoding="utf-8")
        held = json.loads(text)
        arrays = {name: np.array(held[name], float) for name in ARRAYS}
        ranker = Ranker(
            tuple(held["features"]), **arrays, offset=float(held["offset"]), about=held["about"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _no_ranker(name, f"{type(error).__name__}: {error}") from error
    strange = set(ranker.features) - FEATURES.keys()
    if strange:
        raise _no_ranker(name, f"unknown features {', '.join(sorted(strange))}")
    units = ranker.bias.size
    number = len(ranker.features)
    sizes: dict[str, tuple[int, ...]] = {"first": (number, units), "second": (units,)}
    sizes |= dict.fromkeys(("mean", "deviation", "typical"), (number,))
    for part, size in sizes.items():
        if arrays[part].shape != size:
            raise _no_ranker(name, f"{part} of shape {arrays[part].shape}, expected {size}")
    return ranker


def _no_ranker(name: str, found: str) -> InputError:
    expected = "the ranker.json of cryo2d train_ranker"
    return InputError([Problem(name, found, expected, "train a ranker with this version")])
