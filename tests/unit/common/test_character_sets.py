import codecs
import warnings

import pytest

from common.character_sets import DEFAULT, character_sets, decode

TEXTS = {
    "none given": (b"", b"M\xfcller", "Müller"),
    "ISO_IR 6": (b"ISO_IR 6", b"Mueller", "Mueller"),
    "Latin-1": (b"ISO_IR 100", b"M\xfcller", "Müller"),
    "Cyrillic": (b"ISO_IR 144", b"\xbb\xee\xda", "Люк"),
    "Greek": (b"ISO_IR 126", b"\xc4\xe9\xef", "Διο"),
    "UTF-8": (b"ISO_IR 192", "Wang 王".encode(), "Wang 王"),
    "GB18030": (b"GB18030", "王小东".encode("gb18030"), "王小东"),
    "GBK": (b"GBK", "王小东".encode("gbk"), "王小东"),
    "Japanese": (b"\\ISO 2022 IR 87", b"Yamada \x1b$B;3ED\x1b(B", "Yamada 山田"),
    "Japanese, half width": (b"ISO_IR 13", b"\xd4\xcf\xc0\xde", "ﾔﾏﾀﾞ"),
    "Korean": (b"\\ISO 2022 IR 149", b"Hong\x1b$)C\xb1\xe8", "Hong김"),
    "padded": (b"ISO 2022 IR 6 \\ISO 2022 IR 87 ", b"\x1b$B;3ED\x1b(B", "山田"),
    "padded with NUL": (b"ISO_IR 192\0", "王".encode(), "王"),
    "misspelt": (b"ISO-IR 100", b"M\xfcller", "Müller"),
    "misspelt, with extensions": (b"ISO-2022 IR 6\\ISO-2022-IR 87", b"\x1b$B;3ED\x1b(B", "山田"),
    "standing alone": (b"ISO_IR 192\\ISO 2022 IR 87", "王".encode(), "王"),
    "standing alone, but second": (b"ISO_IR 100\\ISO_IR 192", b"M\xfcller", "Müller"),
    "unknown": (b"NO SUCH SET", b"M\xfcller", "Müller"),
    "unknown escape": (b"ISO_IR 100", b"M\x1b$Zller", "M\x1b$Zller"),
}


@pytest.mark.parametrize(("name", "value", "text"), TEXTS.values(), ids=TEXTS.keys())
def test_text_is_decoded_by_its_character_set(name: bytes, value: bytes, text: str) -> None:
    """A value is text in the character set that the dataset names, however a device spells it."""
    assert decode(value, character_sets(name)) == text


def test_padding_is_taken_off() -> None:
    """Spaces and NULs around a value are no part of it (PS3.5 6.2)."""
    assert decode(b" P1 \0\0", DEFAULT) == "P1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"ISO_IR 192", b"M\xfcller"),
        (b"GB18030", b"\x81"),
        (b"\\ISO 2022 IR 87", b"\x1b$B\xff\xff"),
        (b"ISO_IR 13", b"\xff"),
    ],
    ids=["UTF-8", "GB18030", "Japanese", "half width"],
)
def test_what_is_no_text_raises_nothing(name: bytes, value: bytes) -> None:
    """Bytes that the character set does not have are replaced, and the rest is kept."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert isinstance(decode(value, character_sets(name)), str)


@pytest.mark.parametrize("codec", ["utf_7", "unicode_escape", "idna", "undefined", "hex", "utf_16", "\0", "\xff"])
def test_a_dataset_cannot_choose_just_any_codec(codec: str) -> None:
    """Python knows encodings that make lone surrogates, take long or fail; only DICOM's own are used."""
    if codec.isprintable() and codec.isascii():
        assert codecs.lookup(codec)
    assert character_sets(codec.encode("latin-1")) == DEFAULT
    assert decode(b"+2AA-\\ud800", character_sets(codec.encode("latin-1"))) == "+2AA-\\ud800"
