"""Store Instances Responses in the forms in which archives write them, and rubbish."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.response import parse
from uploader.verdict import StoreResponse

JSON = "application/dicom+json"
XML = "application/dicom+xml"
NAMESPACE = "http://dicom.nema.org/PS3.19/models/NativeDICOM"


def entry(uid: str | None, **reasons: Any) -> dict[str, Any]:
    """One item of a sequence; `warning` and `failure` are their values."""
    item: dict[str, Any] = {"00081150": {"vr": "UI", "Value": ["1.2.840.10008.5.1.4.1.1.2"]}}
    if uid is not None:
        item["00081155"] = {"vr": "UI", "Value": [uid]}
    for name, tag in (("warning", "00081196"), ("failure", "00081197")):
        if name in reasons:
            item[tag] = {"vr": "US", "Value": [reasons[name]]}
    return item


def sequence(*entries: Any) -> dict[str, Any]:
    return {"vr": "SQ", "Value": list(entries)}


def read(dataset: Any, content_type: str = JSON) -> StoreResponse | None:
    return parse(json.dumps(dataset).encode(), content_type)


def same(found: StoreResponse | None, expected: StoreResponse) -> bool:
    """Tell whether both decide the same; what they quote is tested by itself."""
    assert found is not None
    return (found.stored, found.failed, found.unnamed) == (expected.stored, expected.failed, expected.unnamed)


FULL = {
    "00081190": {"vr": "UR", "Value": ["http://archive/studies/1"]},
    "00081199": sequence(entry("1.1"), entry("1.2", warning=0xB000)),
    "00081198": sequence(entry("2.1", failure=0xA700), entry("2.2")),
    "0008119A": sequence(entry(None, failure=0xC000), entry(None)),
}
EXPECTED = StoreResponse({"1.1": None, "1.2": 0xB000}, {"2.1": 0xA700, "2.2": None}, (0xC000, None))

ITEM = '<Item number="1"><DicomAttribute tag="00081155" vr="UI"><Value number="1">{}</Value></DicomAttribute>{}</Item>'
REASON = '<DicomAttribute tag="{}" vr="US"><Value number="1">{}</Value></DicomAttribute>'
FULL_XML = (
    f'<?xml version="1.0" encoding="UTF-8"?>\n<NativeDicomModel xmlns="{NAMESPACE}" xml:space="preserve">'
    '<DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">'
    + ITEM.format("1.1", "")
    + ITEM.format("1.2", REASON.format("00081196", 0xB000))
    + '</DicomAttribute><DicomAttribute tag="00081198" vr="SQ">'
    + ITEM.format("2.1", REASON.format("00081197", 0xA700))
    + ITEM.format("2.2", "")
    + '</DicomAttribute><DicomAttribute tag="0008119A" vr="SQ"><Item>'
    + REASON.format("00081197", 0xC000)
    + "</Item><Item></Item></DicomAttribute></NativeDicomModel>"
)

SAME_IN_OTHER_FORMS: dict[str, tuple[bytes, str]] = {
    "JSON": (json.dumps(FULL).encode(), JSON),
    "a list of one dataset": (json.dumps([FULL]).encode(), JSON),
    "a list of datasets": (json.dumps([{tag: value} for tag, value in FULL.items()]).encode(), JSON),
    "application/json": (json.dumps(FULL).encode(), "application/json; charset=utf-8"),
    "JSON without a content type": (json.dumps(FULL).encode(), ""),
    "JSON as text/plain": (json.dumps(FULL).encode(), "text/plain"),
    "JSON behind a byte order mark": (b"\xef\xbb\xbf" + json.dumps(FULL).encode(), JSON),
    "JSON behind blank lines": (b"\r\n \t" + json.dumps(FULL).encode() + b"\r\n", JSON),
    "JSON in UTF-16": (json.dumps(FULL).encode("utf-16"), JSON),
    "lower-case tags": (json.dumps({tag.lower(): value for tag, value in FULL.items()}).encode(), JSON),
    "numbers as text": (
        json.dumps(FULL)
        .replace(f"[{0xA700}]", f'["{0xA700}"]')
        .replace(f"[{0xB000}]", f'["{0xB000}"]')
        .replace(f"[{0xC000}]", f'["{0xC000}"]')
        .encode(),
        JSON,
    ),
    "without value representations": (
        json.dumps(FULL).replace('"vr": "SQ", ', "").replace('"vr": "UI", ', "").encode(),
        JSON,
    ),
    "UIDs with padding": (json.dumps(FULL).replace('"1.1"', '"1.1\\u0000"').replace('"2.1"', '"2.1 "').encode(), JSON),
    "XML": (FULL_XML.encode(), XML),
    "XML without a namespace": (FULL_XML.replace(f' xmlns="{NAMESPACE}"', "").encode(), XML),
    "XML with a prefix": (
        FULL_XML.replace("<", "<n:")
        .replace("<n:/", "</n:")
        .replace("<n:?", "<?")
        .replace("xmlns=", "xmlns:n=")
        .encode(),
        XML,
    ),
    "XML in a list": (
        f"<list>{FULL_XML.partition('?>')[2]}<NativeDicomModel/></list>".encode(),
        "application/xml",
    ),
    "XML without a content type": (FULL_XML.encode(), ""),
    "XML behind a byte order mark and blank lines": (b"\xef\xbb\xbf\r\n" + FULL_XML.encode(), XML),
    "XML in UTF-16": (FULL_XML.replace("UTF-8", "UTF-16").encode("utf-16"), XML),
    "XML in lines": (FULL_XML.replace("><", ">\n  <").encode(), "text/xml"),
    "XML with tags in lower case": (FULL_XML.replace("0008119A", "0008119a").encode(), XML),
}


@pytest.mark.parametrize("name", SAME_IN_OTHER_FORMS)
def test_every_form_of_an_answer_says_the_same(name: str) -> None:
    """JSON and XML, in lists, in other cases, encodings and namespaces, give the same response."""
    body, content_type = SAME_IN_OTHER_FORMS[name]
    assert same(parse(body, content_type), EXPECTED)


# An archive may add text to its answer (ErrorComment, Warning, a RetrieveURL), in its own language and its own charset.
IN_OTHER_CHARSETS: dict[str, tuple[str, str, str]] = {
    "German in Latin-1": ("gespeichert für Müller", "iso-8859-1", f"{JSON}; charset=iso-8859-1"),
    "German in Latin-1, not said": ("gespeichert für Müller", "iso-8859-1", JSON),
    "German in Latin-1, said to be UTF-8": ("gespeichert für Müller", "iso-8859-1", f"{JSON}; charset=utf-8"),
    "German in Latin-1, said to be something unknown": ("für", "iso-8859-1", f"{JSON}; charset=klingon"),
    "German in Latin-1, said to be no charset": ("für", "iso-8859-1", f"{JSON}; charset=punycode"),
    "Japanese with a backslash in it": ("検査表", "shift_jis", f'{JSON}; charset="Shift_JIS"'),
    "Russian": ("сохранено", "windows-1251", f"{JSON}; charset=windows-1251"),
    "Chinese": ("已保存", "gb18030", f"{JSON}; charset=GB18030"),
    "Greek in UTF-8": ("αποθηκεύτηκε", "utf-8", JSON),
}


@pytest.mark.parametrize("name", IN_OTHER_CHARSETS)
def test_an_answer_in_another_language_is_read(name: str) -> None:
    """Whatever an archive says in its own words and charset, what decides is found."""
    comment, charset, content_type = IN_OTHER_CHARSETS[name]
    body = json.dumps({"00000902": {"vr": "LO", "Value": [comment]}, **FULL}, ensure_ascii=False)
    assert same(parse(body.encode(charset), content_type), EXPECTED)


@pytest.mark.parametrize("charset", ["iso-8859-1", "windows-1252", "utf-8"])
def test_xml_in_another_language_is_read(charset: str) -> None:
    """XML says its charset itself."""
    text = FULL_XML.replace("UTF-8", charset).replace(
        "</NativeDicomModel>", "<Comment>für</Comment></NativeDicomModel>"
    )
    assert same(parse(text.encode(charset), XML), EXPECTED)


MISSING_PIECES: dict[str, tuple[Any, StoreResponse]] = {
    "an empty sequence": ({"00081199": {"vr": "SQ"}}, StoreResponse()),
    "a sequence that is null": ({"00081199": {"vr": "SQ", "Value": None}}, StoreResponse()),
    "a sequence that is text": ({"00081199": {"vr": "SQ", "Value": "1.1"}}, StoreResponse()),
    "a sequence that is no element": ({"00081199": "1.1"}, StoreResponse()),
    "an item that is null": ({"00081199": sequence(None, entry("1.1"))}, StoreResponse({"1.1": None})),
    "an item that is text": ({"00081199": sequence("1.2", entry("1.1"))}, StoreResponse({"1.1": None})),
    "an item without a UID": ({"00081198": sequence(entry(None, failure=1))}, StoreResponse()),
    "an item with an empty UID": ({"00081199": sequence({"00081155": {"vr": "UI"}})}, StoreResponse()),
    "a UID that is a number": ({"00081199": sequence({"00081155": {"vr": "UI", "Value": [1.2]}})}, StoreResponse()),
    "a UID that is an item": ({"00081199": sequence({"00081155": {"vr": "UI", "Value": [{}]}})}, StoreResponse()),
    "an empty reason": (
        {"00081198": sequence({**entry("1.1"), "00081197": {"vr": "US", "Value": []}})},
        StoreResponse(failed={"1.1": None}),
    ),
    "a reason that is a word": ({"00081198": sequence(entry("1.1", failure="full"))}, StoreResponse({}, {"1.1": None})),
    "a reason that is null": ({"00081198": sequence(entry("1.1", failure=None))}, StoreResponse({}, {"1.1": None})),
    "a reason that is an item": ({"00081198": sequence(entry("1.1", failure={}))}, StoreResponse({}, {"1.1": None})),
    "a reason beyond US": ({"00081198": sequence(entry("1.1", failure=65536))}, StoreResponse({}, {"1.1": None})),
    "a negative reason": ({"00081198": sequence(entry("1.1", failure=-1))}, StoreResponse({}, {"1.1": None})),
    "a reason that is infinite": (
        {"00081198": sequence(entry("1.1", failure=float("inf")))},
        StoreResponse({}, {"1.1": None}),
    ),
    "a reason that is no number": (
        {"00081198": sequence(entry("1.1", failure=float("nan")))},
        StoreResponse({}, {"1.1": None}),
    ),
    "a UID in both sequences": (
        {"00081199": sequence(entry("1.1")), "00081198": sequence(entry("1.1", failure=0xA900))},
        StoreResponse({"1.1": None}, {"1.1": 0xA900}),
    ),
}


@pytest.mark.parametrize("name", MISSING_PIECES)
def test_what_is_missing_or_odd_is_left_out(name: str) -> None:
    """A response with a missing or odd piece is read without it: no UID is made up, an odd reason is none."""
    dataset, expected = MISSING_PIECES[name]
    assert same(read(dataset), expected)


def test_a_reason_of_a_thousand_digits_is_no_reason() -> None:
    """A number too long to be one neither raises nor counts."""
    body = json.dumps({"00081198": sequence(entry("1.1", failure=7))}).replace("[7]", "[1e999]").encode()
    assert same(parse(body, JSON), StoreResponse(failed={"1.1": None}))


NO_RESPONSES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", JSON),
    "blanks": (b" \r\n", JSON),
    "an empty object": (b"{}", JSON),
    "an empty list": (b"[]", JSON),
    "null": (b"null", JSON),
    "a number": (b"200", JSON),
    "a text": (b'"stored"', JSON),
    "other JSON": (b'{"status": "ok"}', JSON),
    "a list of texts": (b'["00081199"]', JSON),
    "half of it": (json.dumps(FULL).encode()[:200], JSON),
    "a dataset without the sequences": (b'{"00080018": {"vr": "UI", "Value": ["1.1"]}}', JSON),
    "a web page": (b"<!DOCTYPE html><html><body>Please log in<br></body></html>", "text/html"),
    "a well-formed web page": (b"<html><body>Please log in</body></html>", "text/html"),
    "JSON called XML": (json.dumps(FULL).encode(), XML),
    "XML called JSON": (FULL_XML.encode(), JSON),
    "half of the XML": (FULL_XML.encode()[:300], XML),
    "XML of an unknown encoding": (FULL_XML.replace("UTF-8", "EBCDIC-X").encode(), XML),
    "XML of a wrong encoding": (FULL_XML.replace("UTF-8", "UTF-16").encode(), XML),
    "bytes": (bytes(range(256)), ""),
}


@pytest.mark.parametrize("name", NO_RESPONSES)
def test_another_body_is_no_response(name: str) -> None:
    """What is no Store Instances Response gives None."""
    body, content_type = NO_RESPONSES[name]
    assert parse(body, content_type) is None


_INNER = FULL_XML.partition("?>")[2]
_BOMB = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE_XML = {
    "a billion laughs": f'<!DOCTYPE x [<!ENTITY l0 "ha">{_BOMB}]>{_INNER.replace("1.1", "&l9;")}',
    "an entity": f'<!DOCTYPE x [<!ENTITY uid "1.1">]>{_INNER.replace("1.1", "&uid;")}',
    "an entity that is not used": f'<!DOCTYPE x [<!ENTITY uid "1.1">]>{_INNER}',
    "a file": f'<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]>{_INNER.replace("1.1", "&f;")}',
    "a parameter entity": f'<!DOCTYPE x [<!ENTITY % p SYSTEM "http://127.0.0.1:1/p.dtd"> %p;]>{_INNER}',
    "an external DTD": f'<!DOCTYPE NativeDicomModel SYSTEM "http://127.0.0.1:1/n.dtd">{_INNER}',
    "an empty DTD": f"<!DOCTYPE NativeDicomModel>{_INNER}",
    "an entity without a declaration": _INNER.replace("1.1", "&uid;"),
}


@pytest.mark.parametrize("name", HOSTILE_XML)
def test_entities_and_document_types_are_refused(name: str) -> None:
    """XML with a document type is no response, whatever it declares: nothing is expanded or fetched."""
    assert parse(HOSTILE_XML[name].encode(), XML) is None


def _nested_xml(depth: int) -> bytes:
    opening, closing = '<DicomAttribute tag="00081199" vr="SQ"><Item>', "</Item></DicomAttribute>"
    return f"<NativeDicomModel>{opening * depth}{closing * depth}</NativeDicomModel>".encode()


def _nested_json(depth: int) -> bytes:
    return b'{"00081199":{"vr":"SQ","Value":[' * depth + b"]}}" * depth


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (_nested_json(50_000), JSON),
        (b"[" * 200_000, JSON),
        (b'{"a":' * 100_000, JSON),
        (_nested_xml(20_000), XML),
        (b"<a>" * 100_000, XML),
    ],
    ids=["JSON items", "JSON lists", "JSON objects", "XML items", "XML elements"],
)
def test_deep_nesting_is_no_response(body: bytes, content_type: str) -> None:
    """A body nested deeper than any response gives None; the stack holds."""
    assert parse(body, content_type) is None


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1.1", "SQ", "UI"]),
    lambda children: (
        st.lists(children, max_size=3)
        | st.dictionaries(
            st.sampled_from(["00081199", "00081198", "0008119a", "00081155", "00081197", "vr", "Value"]),
            children,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON_VALUES)
@example({"00081199": {"Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]}})
@example({"00081198": {"vr": "SQ", "Value": [{"00081155": {"Value": ["1.2"]}, "00081197": {"Value": [1e999]}}]}})
def test_no_json_raises(value: Any) -> None:
    """Whatever JSON an archive answers, reading it gives a response or None."""
    found = parse(json.dumps(value).encode(), JSON)
    assert found is None or all(isinstance(uid, str) for uid in (*found.stored, *found.failed))


@given(st.binary(max_size=200), st.sampled_from(["", JSON, XML, "text/html"]))
def test_no_bytes_raise(body: bytes, content_type: str) -> None:
    """Whatever bytes an archive answers, they are no response."""
    assert parse(body, content_type) is None


@given(st.integers(0, len(FULL_XML)), st.text(max_size=8))
def test_no_damage_to_xml_raises(position: int, text: str) -> None:
    """An XML answer with something written into it is read or not, but never raises."""
    parse((FULL_XML[:position] + text + FULL_XML[position:]).encode("utf-8", "surrogatepass"), XML)


@given(st.integers(0, 600), st.binary(max_size=8))
def test_no_damage_to_json_raises(position: int, extra: bytes) -> None:
    """A JSON answer with something written into it is read or not, but never raises."""
    body = json.dumps(FULL).encode()
    parse(body[:position] + extra + body[position:], JSON)


@pytest.mark.parametrize(("body", "content_type"), [SAME_IN_OTHER_FORMS["JSON"], SAME_IN_OTHER_FORMS["XML"]])
def test_the_entry_of_a_failed_instance_can_be_quoted(body: bytes, content_type: str) -> None:
    """Each failed instance has its item of FailedSOPSequence as compact DICOM JSON, and nothing of the others'."""
    found = parse(body, content_type)
    assert found is not None
    assert set(found.entries) == {"2.1", "2.2"}
    quoted = json.loads(found.entries["2.1"])
    assert quoted["00081155"] == {"vr": "UI", "Value": ["2.1"]}
    assert [int(value) for value in quoted["00081197"]["Value"]] == [0xA700]
    assert " " not in found.entries["2.1"]
    assert "2.2" not in found.entries["2.1"]
