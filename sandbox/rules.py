"""Misbehaviour on request: what a rule says, and which rule a POST falls under.

A rule is text, key=value,key=value, or the same as a JSON object. Selectors say which requests it is for, actions
what becomes of them:

    every=N  first=N  uid=1.2.3  min_instances=N  min_bytes=N  min_requests=N  (none of them: every POST)
    on=store|search|retrieve                                              (without it: POSTs only)
    status=503 [body=… retry_after=… location=… store=1]                  answer with this status
    fail=0xA700  fail_unnamed=1  warn=0xB000                              failures and warnings of instances
    exists=keep|replace|refuse [fail=45070]                               what is posted under a UID that is there
    answer=empty|html|truncated|json-garbage|omit  media=json|xml         spoil or force the answer's form
    delay=SECONDS  hang=SECONDS  drop=before|during|after                 time, and the connection

A search or a retrieve can be given status, body, retry_after, location, delay, drop=before and answer.

This module is pure: no I/O, no clock. Which rule wins is in rulebook.py, what it does in studies.py.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeVar

from sandbox.errors import RuleError
from sandbox.media import Media, shown
from sandbox.part10 import is_uid

_Value = TypeVar("_Value")

_MAX_SECONDS = 86400
_STATUS = range(200, 600)
_REASON = re.compile(r"0[xX][0-9A-Fa-f]{1,4}|[1-9][0-9]{0,4}")
_REASON_MAX = 0xFFFF  # FailureReason and WarningReason have VR US


class Drop(Enum):
    """When the TCP connection is aborted."""

    BEFORE = "before"
    """Before the body is read."""
    DURING = "during"
    """In the middle of the body, or once it has shown the instance that the rule is for. Nothing is stored."""
    AFTER = "after"
    """After storing, before answering."""


class Answer(Enum):
    """How the body of an answer is spoilt. The instances are stored."""

    EMPTY = "empty"
    """No body at all."""
    HTML = "html"
    """A web page, as a proxy or a login form in between sends it."""
    TRUNCATED = "truncated"
    """The first half of the response, with a Content-Length that fits."""
    GARBAGE = "json-garbage"
    """JSON that is no Store Instances Response."""
    OMIT = "omit"
    """A response that does not name the instance (without uid=: any instance)."""


class On(Enum):
    """Which transaction a rule is for."""

    STORE = "store"
    """STOW-RS."""
    SEARCH = "search"
    """QIDO-RS."""
    RETRIEVE = "retrieve"
    """WADO-RS."""


class Exists(Enum):
    """What becomes of an instance whose UID is there already. Without it: stored, if it has the same bytes."""

    KEEP = "keep"
    """Called stored, and thrown away: what was there stays."""
    REPLACE = "replace"
    """Stored in its place."""
    REFUSE = "refuse"
    """A failure, though it were the same; with fail= for its FailureReason."""


@dataclass(frozen=True)
class Rule:
    """One rule, checked. A field is None or False where the rule does not speak of it.

    min_bytes is of the Content-Length, min_requests of the POSTs under way at a time, this one among them.
    Times are in seconds; FailureReason and WarningReason are numbers as in PS3.18 Table I.2-1 and I.2-2.
    """

    every: int | None = None
    first: int | None = None
    uid: str | None = None
    min_instances: int | None = None
    min_bytes: int | None = None
    min_requests: int | None = None
    on: On | None = None
    status: int | None = None
    body: str | None = None
    retry_after: str | None = None
    location: str | None = None
    store: bool = False
    delay: float | None = None
    hang: float | None = None
    drop: Drop | None = None
    fail: int | None = None
    fail_unnamed: bool = False
    warn: int | None = None
    exists: Exists | None = None
    answer: Answer | None = None
    media: Media | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            RuleError: saying which keys do not go together.
        """
        for broken, text in (
            (not self._acts(), "expected an action (status, delay, hang, drop, fail, warn, answer …), found none"),
            (
                self.status is None and (self.body or self.retry_after or self.location or self.store),
                "expected status= with body, retry_after, location or store, found none",
            ),
            (
                self.drop and (self.status or self.answer or self.media or self.hang),
                "expected drop= without status, answer, media or hang, for it gives no answer; found both",
            ),
            (
                self.drop in (Drop.BEFORE, Drop.DURING) and (self.fail or self.fail_unnamed or self.warn),
                "expected fail, fail_unnamed or warn with drop=after, for nothing is stored before; found another",
            ),
            (
                self.drop is Drop.BEFORE and not self.decidable_unread(),
                "expected uid= or min_instances= with drop=during or after, for no body is read; found drop=before",
            ),
            (
                self.hang and self.answer is Answer.EMPTY,
                "expected hang= with an answer that can be halved, found answer=empty",
            ),
            (self.warn and (self.fail or self.fail_unnamed), "expected either fail or warn, found both"),
            (
                self.drop in (Drop.BEFORE, Drop.DURING) and self.exists,
                "expected exists= with drop=after, for nothing is stored before; found another",
            ),
            (
                self.transaction is not On.STORE and self._stores(),
                "expected status, body, retry_after, location, delay, drop=before or answer with on=, found another",
            ),
        ):
            if broken:
                raise RuleError(text)

    @property
    def transaction(self) -> On:
        """The one it is for."""
        return self.on or On.STORE

    def decidable_unread(self) -> bool:
        """Say whether the rule can be decided before the body is read."""
        return self.uid is None and self.min_instances is None

    def fits_head(self, length: int, requests: int) -> bool:
        """Say whether it can be for a POST of such a Content-Length while so many are under way, itself among them."""
        return length >= (self.min_bytes or 0) and requests >= (self.min_requests or 0)

    def concerns(self, sop_instance_uid: str | None) -> bool:
        """Say whether fail, warn and omit are meant for this instance."""
        return self.uid is None or self.uid == sop_instance_uid

    def answers_plainly(self) -> bool:
        """Say whether status= replaces the whole response, rather than only its code."""
        shaped = (self.fail, self.warn, self.exists, self.answer) != (None,) * 4 or self.fail_unnamed
        return self.status is not None and not shaped

    def as_dict(self) -> dict[str, object]:
        """Give the rule back as the JSON object it can be made from."""
        said: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or value is False:
                continue
            if isinstance(value, Media):
                value = value.name.lower()
            elif isinstance(value, Enum):
                value = value.value
            elif field.name in ("fail", "warn"):
                value = f"0x{value:04X}"
            said[field.name] = value
        return said

    def _acts(self) -> bool:
        selectors = ("every", "first", "uid", "min_instances", "min_bytes", "min_requests", "on")
        return any(name not in selectors for name in self.as_dict())

    def _stores(self) -> bool:
        """Say whether there is anything in it that only a Store request can come under."""
        only = (
            self.min_instances,
            self.min_bytes,
            self.min_requests,
            self.fail,
            self.warn,
            self.exists,
            self.hang,
            self.media,
        )
        return any(only) or self.store or self.fail_unnamed or self.drop in (Drop.DURING, Drop.AFTER)


def parse_rule(text: str) -> Rule:
    """Parse key=value,key=value. A value with a comma in it can only be given as JSON.

    Raises:
        RuleError: saying what was expected and what was found.
    """
    said: dict[str, object] = {}
    for piece in text.split(","):
        key, equals, value = piece.strip().partition("=")
        if not equals:
            raise RuleError(f"expected key=value,key=value, found {shown(piece)}")
        if key in said:
            raise RuleError(f"expected {key} once, found it twice")
        said[key] = value
    return rule_from(said)


def rule_from(said: object) -> Rule:
    """Make a rule of a JSON object, whose values may be texts, numbers or true and false.

    Raises:
        RuleError: saying what was expected and what was found.
    """
    if not isinstance(said, Mapping):
        raise RuleError(f"expected a JSON object, found {type(said).__name__}")
    values: dict[str, object] = {}
    for key, value in said.items():
        if key not in _KEYS:
            raise RuleError(f"expected a key out of {', '.join(_KEYS)}; found {shown(str(key))}")
        if not isinstance(value, str | int | float):
            raise RuleError(f"expected a text, a number or true or false for {key}, found {type(value).__name__}")
        text = str(int(value)) if isinstance(value, bool) else str(value)
        expected, parse = _KEYS[key]
        try:
            values[key] = parse(text)
        except (ValueError, KeyError):
            raise RuleError(f"expected {expected} for {key}, found {shown(text)}") from None
    return Rule(**values)  # type: ignore[arg-type]  # each value comes from the parser of its key


def _count(text: str) -> int:
    return _checked(int(text), holds=int(text) >= 1)


def _status(text: str) -> int:
    return _checked(int(text), holds=int(text) in _STATUS)


def _seconds(text: str) -> float:
    return _checked(float(text), holds=0 <= float(text) <= _MAX_SECONDS)


def _reason(text: str) -> int:
    if not _REASON.fullmatch(text):
        raise ValueError(text)
    return _checked(int(text, 0), holds=0 < int(text, 0) <= _REASON_MAX)


def _uid(text: str) -> str:
    return _checked(text, holds=is_uid(text))


def _line(text: str) -> str:
    return _checked(text, holds=text.isprintable())


def _flag(text: str) -> bool:
    return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[text.lower()]


def _media(text: str) -> Media:
    return Media[text.upper()]


def _checked(value: _Value, *, holds: bool) -> _Value:
    if not holds:
        raise ValueError(value)
    return value


def _one_of(values: Iterable[Enum]) -> str:
    return "one of " + ", ".join(str(value.value) for value in values)


_COUNT_EXPECTED = "a whole number from 1"
_SECONDS_EXPECTED = f"seconds from 0 to {_MAX_SECONDS}"
_REASON_EXPECTED = "0x and up to four hexadecimal digits (0xA700) or a decimal number"
_LINE_EXPECTED = "a text on one line"
_FLAG_EXPECTED = "1 or 0"
_KEYS: dict[str, tuple[str, Callable[[str], object]]] = {
    "every": (_COUNT_EXPECTED, _count),
    "first": (_COUNT_EXPECTED, _count),
    "uid": ("a SOP Instance UID", _uid),
    "min_instances": (_COUNT_EXPECTED, _count),
    "min_bytes": (_COUNT_EXPECTED, _count),
    "min_requests": (_COUNT_EXPECTED, _count),
    "on": (_one_of(On), On),
    "status": (f"an HTTP status from {_STATUS.start} to {_STATUS.stop - 1}", _status),
    "body": ("a text", str),
    "retry_after": (_LINE_EXPECTED, _line),
    "location": (_LINE_EXPECTED, _line),
    "store": (_FLAG_EXPECTED, _flag),
    "delay": (_SECONDS_EXPECTED, _seconds),
    "hang": (_SECONDS_EXPECTED, _seconds),
    "drop": (_one_of(Drop), Drop),
    "fail": (_REASON_EXPECTED, _reason),
    "fail_unnamed": (_FLAG_EXPECTED, _flag),
    "warn": (_REASON_EXPECTED, _reason),
    "exists": (_one_of(Exists), Exists),
    "answer": (_one_of(Answer), Answer),
    "media": ("json or xml", _media),
}
