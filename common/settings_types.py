"""The kinds of value a setting can have: text in, typed value out, and text again.

Here are kinds in general, numbers and choices; kinds of text are in `common.settings_texts`, those of the web in
`common.settings_web`. A kind says in words what it expects; those words stand in problems, in pipeline.ini and in the
documentation, so a range is written down once. Parsing is strict: what is not understood whole is unfit, and never
ignored in part.

No text that may hold a secret leaves a kind: `UnfitError.found` is safe to show, `Kind.show` masks.
"""

import dataclasses
import enum
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=enum.Enum)

_SHOWN_CHARACTERS = 60

# Binary units are tried after decimal ones, so that 1 GB is shown as it was written.
_UNITS = {
    "TB": 1000**4,
    "GB": 1000**3,
    "MB": 1000**2,
    "KB": 1000,
    "TiB": 1024**4,
    "GiB": 1024**3,
    "MiB": 1024**2,
    "KiB": 1024,
    "B": 1,
}
_UNITS_BY_LOWER = {unit.lower(): factor for unit, factor in _UNITS.items()}

_WHOLE = re.compile(r"[0-9]{1,18}")
_DECIMAL = re.compile(r"[0-9]{1,18}(?:\.[0-9]{1,9})?")
_SIZE = re.compile(rf"({_DECIMAL.pattern})[ \t]*([a-z]*)", re.IGNORECASE)


class UnfitError(ValueError):
    """A text is no value of its kind.

    Attributes:
        found: what was found instead, in words that may be shown.
    """

    def __init__(self, found: str) -> None:
        super().__init__(found)
        self.found = found


def quoted(text: str) -> str:
    """Return `text` for a problem: on one line, quoted, cut after 60 characters; "nothing" if empty."""
    if not text:
        return "nothing"
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")


class Kind(ABC, Generic[T]):
    """What a setting accepts.

    Attributes:
        secret: the whole value is a secret, masked wherever it is printed; it belongs in the environment.
    """

    secret: bool = False

    @property
    def confidential(self) -> bool:
        """Whether the value may contain a secret, so that it has no place in a repr."""
        return self.secret

    @property
    @abstractmethod
    def expected(self) -> str:
        """What is accepted, in words that follow "expected"."""

    @abstractmethod
    def parse(self, text: str, folder: Path) -> T:
        """Return the value that `text` stands for.

        Args:
            text: as in the file or the environment, without surrounding spaces.
            folder: what a relative path is relative to.

        Raises:
            UnfitError: `text` is not what is expected.
        """

    def show(self, value: T) -> str:
        """Return the text that stands for `value`, with secrets masked."""
        return str(value)


@dataclass(frozen=True)
class Whole(Kind[int]):
    """A whole number from `low` to `high`, both included."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """The range."""
        return f"a whole number from {self.low} to {self.high}"

    def parse(self, text: str, folder: Path) -> int:
        """Return the number; signs, spaces and digits other than 0-9 are unfit."""
        del folder
        if not _WHOLE.fullmatch(text) or not self.low <= int(text) <= self.high:
            raise UnfitError(quoted(text))
        return int(text)


@dataclass(frozen=True)
class Seconds(Kind[float]):
    """A time span in seconds from `low` to `high`, both included."""

    low: float
    high: float

    @property
    def expected(self) -> str:
        """The range."""
        return f"seconds, a number from {self.show(self.low)} to {self.show(self.high)}"

    def parse(self, text: str, folder: Path) -> float:
        """Return the number of seconds; exponents, signs, inf and nan are unfit."""
        del folder
        if not _DECIMAL.fullmatch(text) or not self.low <= float(text) <= self.high:
            raise UnfitError(quoted(text))
        return float(text)

    def show(self, value: float) -> str:
        """Return the shortest decimal that reads back as the same float."""
        text = format(Decimal(repr(value)), "f")
        return text.rstrip("0").rstrip(".") if "." in text else text


@dataclass(frozen=True)
class Size(Kind[int]):
    """A number of bytes from `low` to `high`, both included: KB is 1000 bytes, KiB 1024."""

    low: int
    high: int

    @property
    def expected(self) -> str:
        """The range."""
        return f"a size such as 64 MB or 1.5 GiB, from {self.show(self.low)} to {self.show(self.high)}"

    def parse(self, text: str, folder: Path) -> int:
        """Return the number of bytes; a fraction of a byte that a unit leaves over is dropped."""
        del folder
        found = _SIZE.fullmatch(text)
        factor = _UNITS_BY_LOWER.get((found[2] or "B").lower()) if found else None
        if found is None or factor is None or (factor == 1 and "." in found[1]):
            raise UnfitError(quoted(text))
        size = int((Decimal(found[1]) * factor).to_integral_value(ROUND_FLOOR))
        if not self.low <= size <= self.high:
            raise UnfitError(quoted(text))
        return size

    def show(self, value: int) -> str:
        """Return the bytes in the largest unit that needs no fraction."""
        unit = next(unit for unit, factor in _UNITS.items() if value % factor == 0) if value else "B"
        return f"{value // _UNITS[unit]} {unit}"


class YesNo(Kind[bool]):
    """A switch."""

    _YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")

    @property
    def expected(self) -> str:
        """The two words; the synonyms are accepted without being advertised."""
        return "yes or no"

    def parse(self, text: str, folder: Path) -> bool:
        """Return True for yes, true, on and 1, False for no, false, off and 0, in any case."""
        del folder
        if text.lower() not in self._YES + self._NO:
            raise UnfitError(quoted(text))
        return text.lower() in self._YES

    def show(self, value: bool) -> str:  # noqa: FBT001 -- the value is what a Kind[bool] shows
        """Return yes or no."""
        return "yes" if value else "no"


@dataclass(frozen=True)
class Choice(Kind[E]):
    """One member of an enumeration, by its text value or else its name, in any case."""

    members: type[E]

    @property
    def expected(self) -> str:
        """The words on offer."""
        *others, last = (self.show(member) for member in self.members)
        return f"{', '.join(others)} or {last}"

    def parse(self, text: str, folder: Path) -> E:
        """Return the member."""
        del folder
        for member in self.members:
            if self.show(member).lower() == text.lower():
                return member
        raise UnfitError(quoted(text))

    def show(self, value: E) -> str:
        """Return the member's word."""
        return value.value if isinstance(value.value, str) else value.name


def declared(kind: Kind[T], default: str, doc: str) -> T:
    """Declare a field of a section's dataclass.

    Args:
        kind: what it accepts.
        default: the default as text, as it stands in pipeline.ini.
        doc: one line, no full stop, saying what it is for.
    """
    return dataclasses.field(
        default=kind.parse(default, Path()),
        repr=not kind.confidential,
        metadata={"kind": kind, "default": default, "doc": doc},
    )
