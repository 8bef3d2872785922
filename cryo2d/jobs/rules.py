"""What a setting may hold: small rules that check one value and say what they expect."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol


class Rule(Protocol):
    """Checks one value of a composed configuration."""

    def accepts(self, value: Any) -> bool:
        """Whether the setting may hold this value."""
        ...

    @property
    def expected(self) -> str:
        """The values it accepts, in words."""
        ...


@dataclass(frozen=True)
class Flag:
    """True or false."""

    expected = "true or false"

    def accepts(self, value: Any) -> bool:
        """A boolean; 0 and 1 are not."""
        return isinstance(value, bool)


@dataclass(frozen=True)
class Whole:
    """A whole number.

    Attributes:
        least: the smallest value.
        most: the largest value, None for no limit.
    """

    least: int = 0
    most: int | None = None

    def accepts(self, value: Any) -> bool:
        """An integer in range; a boolean is none."""
        if isinstance(value, bool) or not isinstance(value, int):
            return False
        return value >= self.least and (self.most is None or value <= self.most)

    @property
    def expected(self) -> str:
        """The range in words."""
        if self.most is None:
            return f"a whole number, {self.least} or more"
        return f"a whole number from {self.least} to {self.most}"


@dataclass(frozen=True)
class Even:
    """An even whole number.

    Attributes:
        least: the smallest value.
    """

    least: int = 0

    def accepts(self, value: Any) -> bool:
        """An even integer in range."""
        return Whole(self.least).accepts(value) and value % 2 == 0

    @property
    def expected(self) -> str:
        """The range in words."""
        return f"an even number, {self.least} or more"


@dataclass(frozen=True)
class Real:
    """A finite number.

    Attributes:
        above: every value is larger than this, None for no limit.
        least: the smallest value, None for no limit.
        most: the largest value, None for no limit.
        unit: for the message.
    """

    above: float | None = None
    least: float | None = None
    most: float | None = None
    unit: str = ""

    def accepts(self, value: Any) -> bool:
        """A finite number in range; a boolean is none."""
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
        ):
            return False
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
        )

    @property
    def expected(self) -> str:
        """The range and the unit in words."""
        limits = [
            f"{word} {limit:g}"
            for word, limit in (
                ("above", self.above),
                ("at least", self.least),
                ("at most", self.most),
            )
            if limit is not None
        ]
        unit = f" ({self.unit})" if self.unit else ""
        return " ".join(["a number", " and ".join(limits)]).rstrip() + unit


@dataclass(frozen=True)
class Text:
    """A text that is not empty.

    Attributes:
        noun: what it names, for the message.
    """

    noun: str = "a text"

    def accepts(self, value: Any) -> bool:
        """A string that is not blank."""
        return isinstance(value, str) and bool(value.strip())

    @property
    def expected(self) -> str:
        """What the text names."""
        return self.noun


@dataclass(frozen=True)
class Condition:
    """A rule over columns, as :mod:`cryo2d.jobs.expressions` reads it.

    Attributes:
        example: for the message.
    """

    example: str

    def accepts(self, value: Any) -> bool:
        """A text; what it says is checked when the columns are known."""
        return isinstance(value, str) and bool(value.strip())

    @property
    def expected(self) -> str:
        """An example."""
        return f"a rule such as '{self.example}'"


class Choice:
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def accepts(self, value: Any) -> bool:
        """One of the words, as it is spelt."""
        return isinstance(value, str) and value in self.words

    @property
    def expected(self) -> str:
        """The words."""
        return "one of " + ", ".join(self.words)


@dataclass(frozen=True)
class Several:
    """A list whose entries all follow one rule; one entry may stand without brackets.

    Attributes:
        rule: the rule of each entry.
    """

    rule: Rule

    def accepts(self, value: Any) -> bool:
        """A list of accepted values, or one of them."""
        if isinstance(value, list):
            return all(self.rule.accepts(entry) for entry in value)
        return self.rule.accepts(value)

    @property
    def expected(self) -> str:
        """The rule of the entries."""
        return f"a list ([a,b]) with each entry {self.rule.expected}"


@dataclass(frozen=True)
class OrNull:
    """Null, or what another rule accepts.

    Attributes:
        rule: the rule of a value that is not null.
    """

    rule: Rule

    def accepts(self, value: Any) -> bool:
        """None or an accepted value."""
        return value is None or self.rule.accepts(value)

    @property
    def expected(self) -> str:
        """The other rule, or null."""
        return f"{self.rule.expected}, or null"


@dataclass(frozen=True)
class Devices:
    """Lightning's ``devices``."""

    expected = "a number of devices, auto, or a list of GPU numbers such as [0, 2]"

    def accepts(self, value: Any) -> bool:
        """A positive number, ``auto``, or different indices."""
        index = Whole()
        if isinstance(value, list):
            return len(set(map(str, value))) == len(value) > 0 and all(map(index.accepts, value))
        return value == "auto" or Whole(1).accepts(value)


@dataclass(frozen=True)
class Object:
    """An object that Hydra builds; its class checks its own arguments, so any key may be added."""

    expected = "an object with a _target_"

    def accepts(self, value: Any) -> bool:
        """A mapping that names a class."""
        return isinstance(value, Mapping) and isinstance(value.get("_target_"), str)


@dataclass(frozen=True)
class Objects:
    """Named objects that Hydra builds; more may be added."""

    expected = "named objects, each with a _target_"

    def accepts(self, value: Any) -> bool:
        """A mapping of objects; an empty one too."""
        return isinstance(value, Mapping) and all(Object().accepts(v) for v in value.values())
