"""Media types: what a request says it brings (Content-Type) and which answer it takes (Accept).

The grammar is RFC 9110 8.3 and 12.5.1, without its tolerance: what a real archive might wave through or might
refuse is refused here, with the reason, so that a sender learns of it in a test.
"""

import re
from enum import Enum

from sandbox.errors import RefusedError

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r'"(?:[^"\\\x00-\x1f\x7f]|\\[\t\x20-\x7e])*"'
_TYPE = re.compile(rf"({_WORD})/({_WORD})")
_PARAMETER = re.compile(rf"[ \t]*;[ \t]*({_WORD})=({_WORD}|{_QUOTED})")
_RANGE_END = re.compile(r'(?:[^,"]|"(?:[^"\\]|\\.)*"?)*')
_QVALUE = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
# RFC 2046 5.1.1: 1 to 70 characters of this set, the last one no space.
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_SHOWN = 80


class Media(Enum):
    """The two media types of a Store Instances Response (PS3.18 10.5.3.2)."""

    JSON = "application/dicom+json"
    XML = "application/dicom+xml"


def shown(text: str) -> str:
    """Quote a header's value for an explanation, cut to what fits on a line."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def parse_media_type(text: str) -> tuple[str, dict[str, str]] | None:
    """Parse one media type with its parameters.

    Returns:
        The type in lower case, and its parameters by their lower-case names, quotes taken off;
        None if the text is no media type or names a parameter twice.
    """
    text = text.strip(" \t")
    found = _TYPE.match(text)
    if found is None:
        return None
    parameters: dict[str, str] = {}
    position = found.end()
    while position < len(text):
        parameter = _PARAMETER.match(text, position)
        if parameter is None or parameter[1].lower() in parameters:
            return None
        value = parameter[2]
        if value.startswith('"'):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        parameters[parameter[1].lower()] = value
        position = parameter.end()
    return found[0].lower(), parameters


def boundary_of(content_type: str | None) -> str:
    """Find the boundary in the Content-Type of a Store request (PS3.18 10.5.1, RFC 2387).

    Raises:
        RefusedError: 415 for another media type, 400 for a Content-Type or boundary that breaks the grammar.
    """
    expected = 'expected Content-Type: multipart/related; type="application/dicom"; boundary=…'
    if content_type is None:
        raise RefusedError(415, f"{expected}, found no Content-Type")
    parsed = parse_media_type(content_type)
    if parsed is None:
        raise RefusedError(
            400,
            f"{expected}, found {shown(content_type)}, which is malformed: "
            "a parameter's value with a slash or another separator must be quoted (RFC 9110 5.6.6)",
        )
    media_type, parameters = parsed
    if media_type != "multipart/related" or parameters.get("type", "").lower() != "application/dicom":
        raise RefusedError(415, f"{expected}, found {shown(content_type)}")
    boundary = parameters.get("boundary")
    if boundary is None:
        raise RefusedError(400, f"{expected}, found no boundary in {shown(content_type)}")
    if not _BOUNDARY.fullmatch(boundary):
        raise RefusedError(
            400,
            "expected a boundary of 1 to 70 characters out of letters, digits and '()+_,-./:=? or inner space "
            f"(RFC 2046 5.1.1), found {shown(boundary)}",
        )
    return boundary


def negotiate(accept: str | None) -> Media:
    """Choose the answer's media type by the Accept header; JSON where the client does not care.

    The most specific range that covers a type gives its weight (RFC 9110 12.5.1); ranges that break the
    grammar count as absent.

    Raises:
        RefusedError: 406 if neither media type has a weight above 0.
    """
    if accept is None or not accept.strip():
        return Media.JSON
    ranges = [_weighted(text) for text in _split(accept)]
    weights = {media: _weight(media.value, [found for found in ranges if found]) for media in Media}
    best = max(Media, key=lambda media: weights[media])  # max keeps the first of equals: JSON
    if weights[best] <= 0:
        raise RefusedError(406, f"expected Accept: {Media.JSON.value} or {Media.XML.value}, found {shown(accept)}")
    return best


def _split(accept: str) -> list[str]:
    """Split at the commas outside quotes."""
    return [found for found in _RANGE_END.findall(accept) if found.strip()]


def _weighted(text: str) -> tuple[str, float] | None:
    parsed = parse_media_type(text)
    if parsed is None:
        return None
    media_range, parameters = parsed
    weight = parameters.get("q", "1")
    return (media_range, float(weight)) if _QVALUE.fullmatch(weight) else None


def _weight(media_type: str, ranges: list[tuple[str, float]]) -> float:
    for candidate in (media_type, media_type.partition("/")[0] + "/*", "*/*"):
        weights = [weight for media_range, weight in ranges if media_range == candidate]
        if weights:
            return max(weights)
    return 0.0
