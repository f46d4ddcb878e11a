"""What a log record may say, and the one line that says it, as text or as JSON.

Unless patient identifiers are permitted, a line has the text and fields of our own modules only, without
fields that carry patient data; of everyone else's records and of exceptions it has the kind and the place.
"""

import enum
import json
import logging
import os
import re
import ssl
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from common.errors import StowgateError
from common.redaction import REDACTED, escape, patient_identifiers_permitted

OUR_PACKAGES = ("common", "receiver", "uploader", "console", "sandbox", "__main__")

# Attribute of a record that holds the keyword fields; one name, so that no field can clash with logging's own.
FIELDS = "stowgate_fields"

_WITHHELD = "text withheld: patient_identifiers = no"
_UNPRINTABLE = "[unprintable]"
_VALUE_CHARACTERS = 1000
_EXCEPTION_CHARACTERS = 4000
_CHAINED_EXCEPTIONS = 5
_FRAMES = 12

_PLAIN_TYPES = frozenset((str, int, bool, type(None)))
_PLAIN_VALUE = re.compile(r"[^\s\"'=\\]+")
_NOT_IN_KEY = re.compile(r"[^A-Za-z0-9_.-]")
# How logging.captureWarnings writes a warning: the rest of it may quote a value.
_WARNING_PLACE = re.compile(r"(?P<file>[^\n:]+\.py|<[a-z]+>):(?P<line>[0-9]+): (?P<category>[A-Za-z_.]+): ")


def is_ours(logger: str) -> bool:
    """Return whether a logger of this name is one of our modules."""
    return logger.partition(".")[0] in OUR_PACKAGES


def exception_text(error: BaseException) -> str:
    """Return what may be said of an exception: its type, and its text where that is safe.

    The texts of StowgateErrors are safe by contract. Of a system error it is what its errno stands for,
    without the file name. Any other text is left out, unless patient identifiers are permitted.
    """
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    if isinstance(error, StowgateError) or patient_identifiers_permitted():
        said = _text_of(error)
    elif isinstance(error, ssl.SSLError):
        # Its errno counts OpenSSL's errors; its reason is one of OpenSSL's names.
        reason = getattr(error, "reason", None)
        said = reason if isinstance(reason, str) and re.fullmatch(r"[A-Z0-9_]+", reason) else ""
    elif isinstance(error, OSError) and isinstance(error.errno, int) and kind.__module__ == "builtins":
        said = os.strerror(error.errno)
    else:
        said = ""
    return f"{name}: {said}" if said else name


def exception_history(error: BaseException, trace: TracebackType | None = None) -> str:
    """Return an exception and those behind it, each with its frames as `file:line function`, outermost first."""
    told: list[str] = []
    seen: set[int] = set()
    behind: BaseException | None = error
    while behind is not None and id(behind) not in seen and len(told) < _CHAINED_EXCEPTIONS:
        seen.add(id(behind))
        frames = [
            f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{line} {frame.f_code.co_name}"
            for frame, line in traceback.walk_tb(behind.__traceback__ or (trace if behind is error else None))
        ]
        shown = ["…", *frames[-_FRAMES:]] if len(frames) > _FRAMES else frames
        told.append(exception_text(behind) + (f" at {' > '.join(shown)}" if shown else ""))
        behind = behind.__cause__ or (None if behind.__suppress_context__ else behind.__context__)
    return "; after ".join(told)


class _LineFormatter(logging.Formatter):
    """What text and JSON have in common.

    Args:
        process: the name of this process type, such as receiver.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    @staticmethod
    def _time(record: logging.LogRecord) -> str:
        """Return the record's time, UTC, ISO 8601 with microseconds."""
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[:-6] + "Z"

    @staticmethod
    def _text(record: logging.LogRecord) -> str:
        """Return the record's text, or what stands for it."""
        if not is_ours(record.name) and not patient_identifiers_permitted():
            return _WITHHELD
        return _text_of_record(record)

    @staticmethod
    def _fields(record: logging.LogRecord) -> dict[str, object]:
        """Return the fields that may be shown, as plain values."""
        fields: dict[str, object] = {} if is_ours(record.name) else _origin(record)
        given = getattr(record, FIELDS, None)
        for key, value in (given if isinstance(given, Mapping) else {}).items():
            fields[str(key)] = _plain_value(str(key), value)
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = exception_history(record.exc_info[1], record.exc_info[2])
        return fields


class TextFormatter(_LineFormatter):
    """`<time> <process> <level> <text> <key>=<value> …`, values quoted where they would be ambiguous."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line end."""
        head = f"{self._time(record)} {self._process} {record.levelname} {self._text(record)}"
        fields = [f"{_plain_key(key)}={_logfmt(key, value)}" for key, value in self._fields(record).items()]
        return " ".join([escape(head, _VALUE_CHARACTERS), *fields])


class JsonFormatter(_LineFormatter):
    """One JSON object, in ASCII: time, process, level, logger, text, then the fields.

    A field of one of these five names gets an underscore behind it.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line end."""
        line: dict[str, object] = {
            "time": self._time(record),
            "process": self._process,
            "level": record.levelname,
            "logger": record.name,
            "text": _cut(self._text(record), _VALUE_CHARACTERS),
        }
        reserved = frozenset(line)
        for key, value in self._fields(record).items():
            if key == "logger" and not is_ours(record.name):
                continue
            shown = _cut(value, _limit_of(key)) if isinstance(value, str) else value
            line[f"{key}_" if key in reserved else key] = shown
        return json.dumps(line)


@lru_cache(1000)
def _plain_key(key: str) -> str:
    return _NOT_IN_KEY.sub("_", key)


def _origin(record: logging.LogRecord) -> dict[str, object]:
    """Return where a record that is not ours came from."""
    origin: dict[str, object] = {"logger": record.name, "where": f"{record.module}:{record.lineno}"}
    if record.name == "py.warnings" and (place := _WARNING_PLACE.match(_text_of_record(record))):
        origin |= {"where": f"{Path(place['file']).stem}:{place['line']}", "category": place["category"]}
    return origin


def _plain_value(key: str, value: object) -> object:
    """Return the value of a field as None, bool, int, float or str."""
    if key.lower().startswith("patient") and not patient_identifiers_permitted():
        return REDACTED
    if isinstance(value, enum.Enum):
        value = value.value
    if type(value) in _PLAIN_TYPES or isinstance(value, int):
        return value
    if isinstance(value, float):
        # JSON has no inf and nan.
        return value if value - value == 0 else str(value)
    return exception_text(value) if isinstance(value, BaseException) else _text_of(value)


def _text_of_record(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 -- its arguments do not fit it, or cannot be printed
        return _UNPRINTABLE


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 -- a value that cannot be printed must not lose the line
        return _UNPRINTABLE


def _limit_of(key: str) -> int:
    return _EXCEPTION_CHARACTERS if key == "exception" else _VALUE_CHARACTERS


def _cut(text: str, limit: int) -> str:
    """Return `text` cut to `limit` characters, and without lone surrogates, which are no JSON."""
    return (text if len(text) <= limit else text[: limit - 1] + "…").encode("utf-8", "backslashreplace").decode("utf-8")


def _logfmt(key: str, value: object) -> str:
    """Return a value as it stands behind its key: quoted, with backslashes and quotes escaped, if need be."""
    text = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    if _PLAIN_VALUE.fullmatch(text) and text.isprintable() and len(text) <= _limit_of(key):
        return text
    cut = text if len(text) <= _limit_of(key) else text[: _limit_of(key) - 1] + "…"
    return '"' + escape(cut.replace("\\", "\\\\").replace('"', '\\"')) + '"'
