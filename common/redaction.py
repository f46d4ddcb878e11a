"""What may be said of a patient in a log, an error text or a sidecar: nothing, unless settings permit it.

`common.logs` sets the permission once, at start; until then nothing is permitted. Texts that others wrote (an
archive's answer, a file name, an AE title) go through here before they are kept or printed: they may hold
identifying values, and characters that forge log lines or drive a terminal.
"""

import hashlib
import html
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

REDACTED = "[redacted]"

_OUR_FILE_NAME = re.compile(r"[0-9a-f]{32}\.dcm")
_LABEL_DIGITS = 10

# Components of a person name (PS3.5 6.2.1) and values of a multi-valued element.
_SEPARATORS = re.compile(r"[\^=\\,\s]+")
_LONGEST_SHORT_VALUE = 3
_SHORTEST_COMPONENT = 2

# A character in a guise that JSON, XML, HTML or a URL gives it; JSON writes some as two surrogates, a URL each
# byte of it by itself.
_GUISE = re.compile(
    r"""(?P<utf16>\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|\\u[0-9a-f]{4}|\\x[0-9a-f]{2})
      | (?P<json>\\["\\/nrt])
      | (?P<xml>&\#?[0-9a-z]{1,31};)
      | (?P<url>(?:%[0-9a-f]{2})+|\+)""",
    re.IGNORECASE | re.VERBOSE,
)
_LONGEST_GUISE = 36
# An answer can be JSON inside XML, or doubly quoted; deeper is not met in practice.
_GUISES_DEEP = 2
_JSON_SHORT = {'"': '"', "\\": "\\", "/": "/", "n": "\n", "r": "\r", "t": "\t"}

# Characters of input read for one of output: values shrink where they are replaced.
_WINDOW_FACTOR = 16
_SMALLEST_WINDOW = 16_000


class _Permission:
    """Module state: whether patient identifiers may be shown in this process."""

    patient_identifiers = False


def permit_patient_identifiers(*, permitted: bool) -> None:
    """Say whether patient identifiers may be shown in this process from now on."""
    _Permission.patient_identifiers = permitted


def patient_identifiers_permitted() -> bool:
    """Return whether patient identifiers may be shown in this process."""
    return _Permission.patient_identifiers


def escape(text: str, limit: int | None = None) -> str:
    r"""Return `text` on one line, without control, formatting or other unprintable characters.

    Those become \n, \x1b, \u202e and the like. A backslash stays as it is, so escaping twice changes nothing.

    Args:
        text: any text, lone surrogates included.
        limit: the most characters to return; a longer text ends in "…". None sets no limit.
    """
    cut = text if limit is None else text[: limit + 1]
    if not cut.isprintable():
        cut = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
            for character in cut
        )
    return cut if limit is None or len(cut) <= limit else cut[: max(limit - 1, 0)] + "…"


def file_label(name: str) -> str:
    """Return what to call a file of the spool in a log.

    Args:
        name: its file name, with undecodable bytes as surrogates, as os.listdir gives it.

    Returns:
        Our own names as they are. Another name was given by hand and may be a patient's: unless patient
        identifiers are permitted, it becomes `dropped-` and the first ten hex digits of its bytes' SHA-256.
    """
    if _OUR_FILE_NAME.fullmatch(name):
        return name
    if patient_identifiers_permitted():
        return escape(name)
    try:
        raw = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = name.encode("utf-8", "surrogatepass")
    return f"dropped-{hashlib.sha256(raw).hexdigest()[:_LABEL_DIGITS]}"


def redact(text: str, values: Iterable[str], *, limit: int = 2000) -> str:
    """Return `text` for a log or a sidecar, with every identifying value in it replaced by `[redacted]`.

    A value is found in any case, with or without accents; with ^ as it is, as a space, as a comma or left
    out; by each of its components of two or more characters; and in the guises of JSON, XML, HTML and URLs.
    Values of up to three characters are replaced only where they are words.

    Args:
        text: as received; cut it afterwards, since half a value at its end is not recognised.
        values: patient name, ID and the like, as DICOM values.
        limit: the most characters to return.

    Returns:
        The text on one line, unprintable characters escaped, cut to `limit`. Where patient identifiers are
        permitted, nothing is replaced.
    """
    if patient_identifiers_permitted():
        return escape(text, limit)
    needles = _needles(values)
    window = text[: max(limit * _WINDOW_FACTOR, _SMALLEST_WINDOW)]
    spans: list[tuple[int, int]] = []
    layer = _Layer(window, range(len(window)), range(1, len(window) + 1))
    for _ in range(_GUISES_DEEP + 1):
        folded = layer.folded()
        for needle in needles:
            spans += folded.find(needle)
        layer = layer.unguised()
    if len(window) < len(text):
        # A value that the window cuts in two is not found: drop as much as the longest could take up.
        tail = _LONGEST_GUISE * max(map(len, needles), default=0)
        window = window[: len(window) - min(tail, len(window) // 2)]
    return escape("".join(_replaced(window, spans)), limit)


def _needles(values: Iterable[str]) -> list[str]:
    """Return the folded texts to look for."""
    needles = set()
    for value in values:
        # A person name in several scripts is one value of up to three groups (PS3.5 6.2.1.1).
        for whole in {value.strip("\x00 "), *value.strip("\x00 ").split("=")}:
            if parts := [part for part in _SEPARATORS.split(whole) if part]:
                needles |= {part for part in parts if len(part) >= _SHORTEST_COMPONENT}
                needles |= {whole, *(joint.join(parts) for joint in ("^", " ", ",", ", ", ""))}
    return sorted({_fold(needle) for needle in needles} - {""})


def _fold(text: str) -> str:
    """Return `text` without case, accents and compatibility forms."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed.casefold() if not unicodedata.combining(character))


@dataclass(frozen=True)
class _Layer:
    """A reading of the original text: each character with the span of the original that it stands for."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def folded(self) -> "_Layer":
        """Return this reading without case and accents; a character may become none or several."""
        if self.text.isascii():
            return _Layer(self.text.lower(), self.starts, self.ends)
        characters: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        for character, start, end in zip(self.text, self.starts, self.ends, strict=True):
            for folded in _fold(character):
                characters.append(folded)
                starts.append(start)
                ends.append(end)
        return _Layer("".join(characters), starts, ends)

    def unguised(self) -> "_Layer":
        """Return this reading with the escapes of JSON, XML, HTML and URLs read."""
        characters: list[str] = []
        starts: list[int] = []
        ends: list[int] = []
        position = 0
        for guise in _GUISE.finditer(self.text):
            characters.append(self.text[position : guise.start()])
            starts += self.starts[position : guise.start()]
            ends += self.ends[position : guise.start()]
            plain = _plain(guise)
            characters.append(plain)
            starts += [self.starts[guise.start()]] * len(plain)
            ends += [self.ends[guise.end() - 1]] * len(plain)
            position = guise.end()
        characters.append(self.text[position:])
        starts += self.starts[position:]
        ends += self.ends[position:]
        return _Layer("".join(characters), starts, ends)

    def find(self, needle: str) -> Iterator[tuple[int, int]]:
        """Yield the spans of the original where `needle` is, which is folded as this reading is."""
        at = self.text.find(needle)
        while at >= 0:
            end = at + len(needle)
            if len(needle) > _LONGEST_SHORT_VALUE or (
                _is_edge(self.text[at - 1 : at], needle[0])
                and _is_edge(self.text[end : end + 1], needle[-1])
                and not self._is_in_uid(at, end)
            ):
                yield self.starts[at], self.ends[end - 1]
            at = self.text.find(needle, at + 1)

    def _is_in_uid(self, start: int, end: int) -> bool:
        """Return whether digits are a component of a UID or a dotted number, which would lose its sense."""
        before, after = self.text[max(start - 2, 0) : start], self.text[end : end + 2]
        return self.text[start:end].isdigit() and (
            (before.endswith(".") and before[:1].isdigit()) or (after.startswith(".") and after[1:].isdigit())
        )


def _is_edge(neighbour: str, character: str) -> bool:
    """Return whether a word may end between the two; scripts without case write words without spaces."""
    return not neighbour.isalnum() or unicodedata.category(character) == "Lo"


def _plain(guise: re.Match[str]) -> str:
    """Return the characters behind one escape."""
    text = guise[0]
    if guise["utf16"]:
        units = [int(unit, 16) for unit in re.findall(r"\\[ux]([0-9a-f]+)", text, re.IGNORECASE)]
        return b"".join(unit.to_bytes(2, "big") for unit in units).decode("utf-16-be", "surrogatepass")
    if guise["json"]:
        return _JSON_SHORT[text[1].lower()]
    if guise["xml"]:
        return html.unescape(text)
    raw = unquote_to_bytes(text) if text != "+" else b" "
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _replaced(text: str, spans: list[tuple[int, int]]) -> Iterator[str]:
    """Yield the pieces of `text` with each run of overlapping or touching spans replaced once."""
    position = 0
    for start, end in sorted(spans):
        if end <= position or start >= len(text):
            continue
        if start > position or position == 0:
            yield text[position:start]
            yield REDACTED
        position = end
    yield text[position:]
