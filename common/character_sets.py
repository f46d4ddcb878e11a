"""Decoding text by Specific Character Set (0008,0005): PS3.3 C.12.1.1.2 and PS3.5 6.1.

Nothing is fatal: an unknown character set counts as the default one, a byte that is none of its characters becomes
U+FFFD. The names are looked up among DICOM's own, so that a dataset cannot choose just any codec of Python.
"""

import re

from pydicom.charset import STAND_ALONE_ENCODINGS, decode_bytes, python_encoding

DEFAULT = ("iso8859",)
_ESCAPE = b"\x1b"
# After these ISO 2022 falls back to the first character set (PS3.5 6.1.2.5.3): ^ and = in person names only, but in
# other values they are too rare to tell apart.
_DELIMITERS = set(b"\n\f\r\t^=\\")
_MISSPELT = re.compile(r"ISO.(2022.)?IR.(\d+)\Z")


def character_sets(value: bytes) -> tuple[str, ...]:
    """The Python encodings of a value of Specific Character Set, the first one first."""
    names = [_defined_term(name) for name in value.decode("ascii", "replace").split("\\")]
    if names[0] in STAND_ALONE_ENCODINGS:
        return (python_encoding[names[0]],)
    return tuple(python_encoding.get(name, DEFAULT[0]) for name in names if name not in STAND_ALONE_ENCODINGS)


def decode(value: bytes, encodings: tuple[str, ...]) -> str:
    """The text of a value, without padding."""
    try:
        if _ESCAPE in value:
            text = decode_bytes(value, encodings, _DELIMITERS)
        else:
            text = value.decode(encodings[0], "replace")
    except (LookupError, ValueError):
        text = value.decode("latin-1")
    return text.strip("\0 ")


def _defined_term(name: str) -> str:
    """A defined term as the standard writes it; devices write ISO-IR 100 and the like for ISO_IR 100."""
    name = name.strip("\0 ")
    if match := _MISSPELT.match(name):
        return f"ISO 2022 IR {match[2]}" if match[1] else f"ISO_IR {match[2]}"
    return name
