"""Logging: one line each, no patient in it, and never a failure for the caller."""

import contextlib
import errno
import html
import io
import json
import logging
import os
import re
import select
import ssl
import subprocess
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import logs
from common.config import Level, LogFormat, LoggingConfig
from common.errors import NotDicomError, SpoolError
from common.redaction import permit_patient_identifiers

ROOT = Path(__file__).parents[3]
PATIENT = "Müller^Hans"


@contextlib.contextmanager
def written(
    *,
    permitted: bool = False,
    form: LogFormat = LogFormat.TEXT,
    level: Level = Level.DEBUG,
) -> Iterator[io.StringIO]:
    """Set logging up for a process called receiver, and give what it writes."""
    stream = io.StringIO()
    logs.setup(LoggingConfig(level=level, format=form, patient_identifiers=permitted), "receiver")
    with contextlib.redirect_stderr(stream):
        yield stream


def line_of(stream: io.StringIO) -> str:
    """Return the only line written, without its time and process."""
    (line,) = stream.getvalue().split("\n")[:-1]
    return line.split(" receiver ", 1)[1]


def object_of(stream: io.StringIO) -> dict[str, Any]:
    """Return the only JSON line written."""
    (line,) = stream.getvalue().split("\n")[:-1]
    return dict(json.loads(line))


# --- Lines


def test_a_text_line_says_when_who_and_what() -> None:
    """A line has time in UTC with microseconds, process, level and text, then the fields in their order."""
    with written() as stream:
        logs.get("receiver.intake").info("stored", file="a.dcm", size_bytes=12)
    line = stream.getvalue()
    found = re.fullmatch(r"(\S+)Z receiver INFO stored file=a\.dcm size_bytes=12\n", line)
    assert found is not None
    when = datetime.strptime(found[1], "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - when) < timedelta(minutes=1)


def test_a_json_line_is_an_object() -> None:
    """A JSON line has the same, with logger, and its fields keep their types."""
    with written(form=LogFormat.JSON) as stream:
        logs.get("receiver.intake").warning("slow", file="ä", seconds=1.5, kept=True, cause=None, level="mine")
    found = object_of(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", found.pop("time"))
    assert found == {
        "process": "receiver",
        "level": "WARNING",
        "logger": "receiver.intake",
        "text": "slow",
        "file": "ä",
        "seconds": 1.5,
        "kept": True,
        "cause": None,
        "level_": "mine",
    }


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("STORE SCU", '"STORE SCU"', id="space"),
        pytest.param("", '""', id="empty"),
        pytest.param('a"b', '"a\\"b"', id="quote"),
        pytest.param("a\\", '"a\\\\"', id="backslash"),
        pytest.param("a=b", '"a=b"', id="equals sign"),
        pytest.param("a\nb", '"a\\nb"', id="newline"),
        pytest.param("\x1b[2J", '"\\x1b[2J"', id="ANSI escape"),
        pytest.param("a\u202eb", '"a\\u202eb"', id="bidirectional override"),
        pytest.param("a\u2028b", '"a\\u2028b"', id="line separator"),
        pytest.param("\udce4", '"\\udce4"', id="byte that is no UTF-8"),
        pytest.param("Grün", "Grün", id="letters"),
        pytest.param(None, "none", id="None"),
        pytest.param(True, "true", id="True"),
        pytest.param(1.5, "1.5", id="float"),
        pytest.param(float("nan"), "nan", id="nan"),
        pytest.param(Path("/spool/x"), "/spool/x", id="path"),
        pytest.param(LogFormat.JSON, "json", id="enumeration"),
        pytest.param(OSError(errno.ENOSPC, "x", "y"), '"OSError: No space left on device"', id="exception"),
        pytest.param("x" * 1001, "x" * 999 + "…", id="long"),
    ],
)
def test_values_are_one_unambiguous_word(value: object, expected: str) -> None:
    """A value that is not a plain word is quoted, with what cannot be printed escaped."""
    with written() as stream:
        logs.get("receiver").info("x", key=value)
    shown = line_of(stream).removeprefix("INFO x key=")
    assert shown == expected or (shown[0] == '"' and shown.strip('"') == expected)


TEXTS = st.text(alphabet=st.characters(), max_size=80) | st.text(
    alphabet='\n\r\x1b\x7f\x85\u2028\ud800\x00"\\= a', max_size=20
)


@given(TEXTS, TEXTS, TEXTS)
def test_no_text_injects_a_line(text: str, value: str, key: str) -> None:
    """Whatever text, key and value are, one printable line comes of them."""
    with written() as stream:
        logs.get("receiver").info(text, **{key: value})
    assert stream.getvalue()[-1] == "\n"
    assert stream.getvalue()[:-1].isprintable()


@given(TEXTS, TEXTS)
def test_no_value_injects_a_field(first: str, second: str) -> None:
    """The fields of a line can be told apart, and read back as they were, whatever the values are."""
    with written() as stream:
        logs.get("receiver").info("x", first=first, second=second)
    field = r'([^\s"\'=\\]+|"(?:[^"\\]|\\.)*")'
    found = re.fullmatch(rf"INFO x first={field} second={field}", line_of(stream))
    assert found is not None
    read = [
        shown[1:-1].encode("ascii", "backslashreplace").decode("unicode_escape") if shown[0] == '"' else shown
        for shown in found.groups()
    ]
    assert read == [first, second]


@given(TEXTS, TEXTS, TEXTS)
def test_every_json_line_is_ascii_json(text: str, value: str, key: str) -> None:
    """Whatever text, key and value are, one line of JSON in printable ASCII comes of them."""
    with written(form=LogFormat.JSON) as stream:
        logs.get("receiver").info(text, **{key: value})
    line = stream.getvalue()
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    found = object_of(stream)
    assert {"time", "process", "level", "logger", "text"} < found.keys()
    assert found["text"].encode() == text.encode(errors="backslashreplace")


def test_levels_below_the_configured_one_are_not_logged() -> None:
    """A line is written from the configured level on."""
    with written(level=Level.WARNING) as stream:
        for name in ("debug", "info", "warning", "error"):
            getattr(logs.get("uploader.stow"), name)(name)
    assert re.findall(r"receiver (\S+) (\S+)\n", stream.getvalue()) == [("WARNING", "warning"), ("ERROR", "error")]


def test_a_second_setup_replaces_the_first() -> None:
    """However often logging is set up, a line is written once, in the latest form."""
    with written(), written(form=LogFormat.JSON) as stream:
        logs.get("receiver").info("once")
    assert object_of(stream)["text"] == "once"


# --- Patients


@pytest.mark.parametrize("key", ["patient_id", "patient_name", "patient_birth_date", "Patient_ID", "patientname"])
@pytest.mark.parametrize("form", list(LogFormat))
def test_fields_of_a_patient_are_redacted(key: str, form: LogFormat) -> None:
    """A field whose name says patient never shows its value, unless that is permitted."""
    with written(form=form) as stream:
        logs.get("receiver").info("stored", **{key: PATIENT})
    assert "[redacted]" in stream.getvalue()
    assert "Hans" not in stream.getvalue()
    with written(form=form, permitted=True) as stream:
        logs.get("receiver").info("stored", **{key: PATIENT})
    assert "Hans" in stream.getvalue()


def test_texts_of_other_libraries_are_withheld() -> None:
    """Of a library's warning, its logger and place are shown and its text is not; below WARNING nothing is."""
    with written() as stream:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING):
            logging.getLogger("pynetdicom.acse").log(level, "dataset of %s", PATIENT)
    line = line_of(stream)
    assert re.fullmatch(
        r"WARNING text withheld: patient_identifiers = no logger=pynetdicom\.acse where=test_logs:\d+",
        line.replace('"', ""),
    )


@pytest.mark.parametrize("permitted", [True, False])
def test_libraries_build_no_records_that_are_dropped(permitted: bool) -> None:  # noqa: FBT001 -- pytest gives it
    """A library's INFO and DEBUG end at its own logger, unless they would be shown."""
    with written(permitted=permitted):
        assert logging.getLogger("pynetdicom.acse").isEnabledFor(logging.INFO) is permitted
        assert logging.getLogger("receiver.scp").isEnabledFor(logging.INFO)


def test_a_library_that_lowers_its_own_level_is_still_held() -> None:
    """A logger that lets its own INFO through does not get a withheld line for each."""
    chatty = logging.getLogger("chatty")
    chatty.setLevel(logging.DEBUG)
    with written() as stream:
        chatty.info("dataset of %s", PATIENT)
    assert stream.getvalue() == ""


def test_names_that_only_begin_like_ours_are_not_ours() -> None:
    """A library called receiver_tools is as foreign as any."""
    with written() as stream:
        logging.getLogger("receiver_tools").warning(PATIENT)
    assert "Hans" not in stream.getvalue()
    assert "text withheld" in stream.getvalue()


def test_texts_of_other_libraries_are_shown_where_permitted() -> None:
    """With patient_identifiers = yes, a library's line is shown in full."""
    with written(permitted=True) as stream:
        logging.getLogger("pynetdicom.acse").info("dataset of %s", PATIENT)
    assert f"INFO dataset of {PATIENT} logger=pynetdicom.acse" in stream.getvalue()


@pytest.mark.parametrize("form", list(LogFormat))
def test_python_warnings_are_withheld(form: LogFormat) -> None:
    """A Python warning, as pydicom gives them with values, shows its category and place alone."""
    with written(form=form) as stream, warnings.catch_warnings():
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.simplefilter("always")
        warnings.warn(f"Invalid value for VR DA: '{PATIENT}'\n{PATIENT}", UserWarning, stacklevel=1)
    assert "Hans" not in stream.getvalue()
    assert "UserWarning" in stream.getvalue()
    assert re.search(r"test_logs:\d+", stream.getvalue())


def fail_with(error: BaseException) -> None:
    raise error


def fail_in_a_chain(kind: type[Exception]) -> None:
    try:
        fail_with(ValueError(f"cause {PATIENT}"))
    except ValueError as error:
        raise kind(f"text {PATIENT}") from error


def fail_in_a_context(kind: type[Exception]) -> None:
    try:
        fail_with(ValueError(f"context {PATIENT}"))
    except ValueError:
        raise kind(f"text {PATIENT}")  # noqa: B904 -- a context without a cause is what is shown here


@pytest.mark.parametrize("form", list(LogFormat))
@pytest.mark.parametrize("fail", [fail_in_a_chain, fail_in_a_context], ids=["cause", "context"])
def test_exceptions_are_told_without_their_texts(form: LogFormat, fail: Any) -> None:
    """Of a foreign exception and those behind it, types and frames are shown in one line, the texts are not."""
    with written(form=form) as stream:
        try:
            fail(KeyError)
        except KeyError:
            logs.get("receiver").exception("failed", file="x")
    assert stream.getvalue().count("\n") == 1
    assert "Hans" not in stream.getvalue()
    history = r"KeyError at \S+/test_logs\.py:\d+ test_\w+ > \S+/test_logs\.py:\d+ fail_in_\w+; after ValueError at "
    assert re.search(history, stream.getvalue())
    with written(form=form, permitted=True) as stream:
        try:
            fail(KeyError)
        except KeyError:
            logs.get("receiver").exception("failed")
    assert len(re.findall("Hans", stream.getvalue())) == 2


def test_our_own_errors_are_told_with_their_texts() -> None:
    """The text of a StowgateError is safe by contract, and shown; that of its cause is not."""
    with written(form=LogFormat.JSON) as stream:
        try:
            try:
                fail_with(ValueError(PATIENT))
            except ValueError as error:
                raise NotDicomError("no prefix DICM at byte 128") from error
        except NotDicomError:
            logs.get("receiver").exception("refused")
    assert object_of(stream)["exception"].startswith("common.errors.NotDicomError: no prefix DICM at byte 128 at ")
    assert "Hans" not in stream.getvalue()


class ForeignError(OSError):
    """An OSError of some library, whose errno may mean anything."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(ValueError(PATIENT), "ValueError", id="foreign"),
        pytest.param(
            FileNotFoundError(errno.ENOENT, "No such file", PATIENT),
            "FileNotFoundError: No such file or directory",
            id="errno without file name",
        ),
        pytest.param(OSError(errno.EIO, PATIENT), "OSError: Input/output error", id="errno without its text"),
        pytest.param(OSError(PATIENT), "OSError", id="no errno"),
        pytest.param(ForeignError(1, PATIENT), "test_logs.ForeignError", id="a library's OSError"),
        pytest.param(ssl.SSLError(1, PATIENT), "ssl.SSLError", id="TLS without reason"),
        pytest.param(SpoolError("not one filesystem"), "common.errors.SpoolError: not one filesystem", id="ours"),
    ],
)
def test_what_may_be_said_of_an_exception(error: BaseException, expected: str) -> None:
    """An exception is named by its type; of system errors errno tells more, of ours their text does."""
    assert logs.exception_text(error) == expected


def test_an_exception_that_cannot_be_printed_loses_no_line() -> None:
    """Values whose str fails are named as unprintable."""

    class BrokenError(SpoolError):
        def __str__(self) -> str:
            raise RuntimeError

    with written() as stream:
        logs.get("receiver").info("x", error=BrokenError(), list=[BrokenError()])
    assert "[unprintable]" in line_of(stream)


def test_a_circle_of_exceptions_ends() -> None:
    """Exceptions that are each other's context are told once each."""
    first, second = ValueError(), KeyError()
    first.__context__, second.__context__ = second, first
    with written(form=LogFormat.JSON) as stream:
        logging.getLogger("receiver").error("x", exc_info=first)
    assert object_of(stream)["exception"] == "ValueError; after KeyError"


def test_deep_recursion_is_told_in_one_bounded_line() -> None:
    """Of a long traceback the innermost frames are shown."""

    def deeper() -> None:
        deeper()

    with written() as stream:
        try:
            deeper()
        except RecursionError:
            logs.get("receiver").exception("x")
    assert len(line_of(stream)) < 1500
    assert line_of(stream).count(" deeper") == 12


@pytest.mark.parametrize(
    ("code", "status"),
    [
        pytest.param("raise ValueError('Hans')", 1, id="main thread"),
        pytest.param(
            "import threading\ndef run():\n    raise ValueError('Hans')\n"
            "t = threading.Thread(target=run)\nt.start()\nt.join()",
            0,
            id="thread",
        ),
        pytest.param("class X:\n    def __del__(self):\n        raise ValueError('Hans')\nX()", 0, id="destructor"),
        pytest.param("import warnings\nwarnings.warn('Hans')", 0, id="warning"),
    ],
)
def test_what_nobody_catches_is_redacted(code: str, status: int) -> None:
    """An uncaught exception of any kind, or a warning, is one line on standard error without its text."""
    start = (
        "from common import logs\nfrom common.config import LoggingConfig\nlogs.setup(LoggingConfig(), 'receiver')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", start + code], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == status
    assert "Hans" not in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert re.search(r" receiver (ERROR|WARNING) .*(ValueError|UserWarning)", ended.stderr)


# --- Labels of files


def test_our_own_file_names_are_shown() -> None:
    """A name that we gave tells nothing of a patient."""
    name = "0123456789abcdef" * 2 + ".dcm"
    assert logs.file_label(name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("Mueller_Hans.dcm", id="patient"),
        pytest.param("0123456789ABCDEF" * 2 + ".dcm", id="capitals"),
        pytest.param("0123456789abcdef" * 2 + ".dcm\n", id="newline behind"),
        pytest.param("M\udcfcller.dcm", id="bytes that are no UTF-8"),
        pytest.param("\ud800", id="no file name at all"),
    ],
)
def test_other_file_names_are_labelled(name: str) -> None:
    """A name that was given by hand becomes a label that the same name always gets."""
    assert re.fullmatch(r"dropped-[0-9a-f]{10}", logs.file_label(name))
    assert logs.file_label(name) == logs.file_label(name) != logs.file_label(name + "x")


def test_a_label_can_be_computed_by_an_operator() -> None:
    """The label is the SHA-256 of the name's bytes, as sha256sum gives it."""
    ended = subprocess.run(["sha256sum"], input=b"M\xfcller.dcm", capture_output=True, check=True)
    assert logs.file_label(os.fsdecode(b"M\xfcller.dcm")) == f"dropped-{ended.stdout[:10].decode()}"


def test_other_file_names_are_shown_escaped_where_permitted() -> None:
    """With patient_identifiers = yes a name is shown, on one line."""
    permit_patient_identifiers(permitted=True)
    assert logs.file_label("Hans\n.dcm") == "Hans\\n.dcm"


# --- Redaction of texts


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        pytest.param("stored 4711-X twice: 4711-x", ["4711-X"], "stored [redacted] twice: [redacted]", id="any case"),
        pytest.param("MUELLER^HANS", ["Mueller^Hans"], "[redacted]", id="as in DICOM"),
        pytest.param("Mueller^Hans^^^", ["Mueller^Hans^^^"], "[redacted]", id="with empty components"),
        pytest.param("Mueller, Hans is", ["Mueller^Hans"], "[redacted] is", id="with comma"),
        pytest.param("for Hans Mueller", ["Mueller^Hans"], "for [redacted] [redacted]", id="other order"),
        pytest.param("dr. hans", ["Mueller^Hans^^Dr"], "[redacted]. [redacted]", id="components"),
        pytest.param("王小明 and Wang", ["Wang^XiaoMing=王^小明"], "[redacted] and [redacted]", id="groups"),
        pytest.param("患者王小明入院", ["王^小明"], "患者[redacted]入院", id="script without spaces"),
        pytest.param("Muller MÜLLER", ["Müller"], "[redacted] [redacted]", id="accents"),
        pytest.param(unicodedata.normalize("NFD", "Müller!"), ["Müller"], "[redacted]!", id="decomposed"),
        pytest.param("STRASSE", ["Straße"], "[redacted]", id="sharp s"),
        pytest.param("Lima, Li; (LI)", ["Li"], "Lima, [redacted]; ([redacted])", id="short value"),
        pytest.param("id 7 of 17", ["7"], "id [redacted] of 17", id="one digit"),
        pytest.param("A^B AB xA^Bx", ["A^B"], "[redacted] [redacted] xA^Bx", id="initials"),
        pytest.param("a.c abc", ["a.c"], "[redacted] abc", id="dot is a dot"),
        pytest.param("x (.*)+$ y", ["(.*)+$"], "x [redacted] y", id="regular expression"),
        pytest.param("M\\u00fcller \\u00FC", ["Müller"], "[redacted] \\u00FC", id="JSON"),
        pytest.param("M&#252;ller M&#xFC;ller M&uuml;ller", ["Müller"], " ".join(["[redacted]"] * 3), id="HTML"),
        pytest.param("M%C3%BCller m%fcller", ["Müller"], "[redacted] [redacted]", id="percent, UTF-8 or Latin-1"),
        pytest.param("n=A+%26+B4711", ["A & B4711"], "n=[redacted]", id="form"),
        pytest.param("O&amp;apos;Brien", ["O'Brien"], "[redacted]", id="escaped twice"),
        pytest.param("\\ud83d\\ude00smith", ["😀smith"], "[redacted]", id="JSON surrogates"),
        pytest.param("100%25", ["100%25"], "[redacted]", id="looks escaped"),
        pytest.param("4711 47114711", ["4711", "47114711"], "[redacted] [redacted]", id="longest"),
        pytest.param("nothing here", [], "nothing here", id="no values"),
        pytest.param("nothing here", ["", "^^^", " ", "\x00"], "nothing here", id="empty values"),
        pytest.param("P4711\x1b[2J\r\n", ["P4711 "], "[redacted]\\x1b[2J\\r\\n", id="padding and control characters"),
    ],
)
def test_identifying_values_are_redacted(text: str, values: list[str], expected: str) -> None:
    """Each value is found in the forms that an archive's answer may give it, and nothing else is."""
    assert logs.redact(text, values) == expected


NAMES = st.text(alphabet=st.characters(categories=["Lu", "Ll"], max_codepoint=0x24F), min_size=4, max_size=12)
GUISES: dict[str, Callable[[str], str]] = {
    "plain": str,
    "json": lambda name: json.dumps(name)[1:-1],
    "html": html.escape,
    "references": lambda name: name.encode("ascii", "xmlcharrefreplace").decode(),
    "percent": lambda name: quote(name, safe=""),
    "form": quote_plus,
    "json in html": lambda name: html.escape(json.dumps(name)),
}


@given(NAMES, NAMES, st.sampled_from(sorted(GUISES)), st.sampled_from(["^", " ", ", "]))
def test_no_part_of_a_name_survives(family: str, given_name: str, guise: str, joint: str) -> None:
    """Whatever a name and its guise are, neither component is left in the text."""
    text = f"<7>{GUISES[guise](family + joint + given_name)}</7> 1.2.3"
    found = logs.redact(text, [f"{family}^{given_name}"])
    assert found.startswith("<7>")
    assert found.endswith("</7> 1.2.3")
    found = found.replace("[redacted]", "")
    assert family not in found
    assert given_name not in found


@given(TEXTS, st.lists(st.text(max_size=6), max_size=3), st.integers(min_value=1, max_value=50))
def test_a_redacted_text_is_printable_and_within_its_limit(text: str, values: list[str], limit: int) -> None:
    """Whatever goes in, one printable line no longer than the limit comes out."""
    found = logs.redact(text, values, limit=limit)
    assert found.isprintable()
    assert len(found) <= limit


def test_a_text_is_cut_after_its_values_are_replaced() -> None:
    """No value is cut in two by the limit, not even in a text that shrinks by being redacted."""
    value = "Q" * 300
    found = logs.redact(f"{value} " * 3000, [value], limit=2000)
    assert "Q" not in found
    assert found.startswith("[redacted] [redacted]")


def test_redaction_of_a_large_text_is_quick() -> None:
    """A long answer full of near matches costs no more than a moment."""
    started = time.monotonic()
    logs.redact("&#x4D;aaaa%41a\\u0061" * 200_000, ["a" * 63 + "b", "aaab^aaaa", "%41" * 20])
    assert time.monotonic() - started < 5


def test_where_permitted_a_text_is_only_escaped_and_cut() -> None:
    """With patient_identifiers = yes nothing is replaced, but a terminal is still safe."""
    permit_patient_identifiers(permitted=True)
    assert logs.redact("Hans\x1b" + "x" * 100, ["Hans"], limit=20) == "Hans\\x1bxxxxxxxxxxx…"


# --- Never in the way


class ClosedStream(io.StringIO):
    """A stream that refuses everything."""

    def write(self, _text: str) -> int:  # noqa: D102 -- as in its base
        raise ValueError("I/O operation on closed file")


@pytest.mark.parametrize("stream", [pytest.param(ClosedStream(), id="closed"), pytest.param(None, id="none at all")])
def test_a_closed_standard_error_does_not_reach_the_caller(stream: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging to nowhere raises nothing, and what was lost is counted when there is somewhere again."""
    with written() as later:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", stream)
            logs.get("receiver").info("lost", key="x")
            logs.get("receiver").error("lost")
        logs.get("receiver").info("back")
    first, second = later.getvalue().splitlines()
    assert first.endswith("WARNING log lines lost: standard error did not take them lines=2")
    assert second.endswith("INFO back")


def test_a_full_disk_does_not_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging to a file on a full disk raises nothing."""
    with written(), open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with pytest.raises(OSError, match="No space left"):
            os.write(full.fileno(), b"x")
        logs.get("receiver").info("lost")
        monkeypatch.undo()


def test_a_broken_pipe_does_not_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logging to a pipe whose reader is gone raises nothing."""
    reading, writing = os.pipe()
    os.close(reading)
    with written(), open(writing, "w", encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stderr", pipe)
        logs.get("receiver").info("lost")
        monkeypatch.undo()


def test_a_pipe_that_nobody_reads_does_not_stop_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the reader sleeps, lines are dropped and counted; when it wakes, whole lines come again."""
    reading, writing = os.pipe()
    with written(), open(writing, "w", encoding="utf-8") as pipe, open(reading, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stderr", pipe)
        log = logs.get("receiver")
        started = time.monotonic()
        for _ in range(2000):
            # Longer than the two pages that one write of PIPE_BUF can touch, so that a line is torn.
            log.info("line", a="ä" * 900, b="ä" * 900, c="ä" * 900, d="ä" * 900, e="ä" * 900)
        assert time.monotonic() - started < 5
        held = reader.read(1 << 20)
        log.info("awake")
        monkeypatch.undo()
        after = reader.read(1 << 20)
    *lines, last = (held + after).decode(errors="replace").splitlines()
    start = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z receiver "
    whole = [line for line in lines if re.fullmatch(start + "INFO line( [a-e]=ä{900}){5}", line)]
    counted = [
        found for line in lines if (found := re.fullmatch(start + "WARNING log lines lost: .* lines=(.*)", line))
    ]
    assert len(counted) == 1
    assert int(counted[0][1]) + len(whole) == 2000
    assert re.fullmatch(start + "INFO awake", last)


@contextlib.contextmanager
def writes_to_a_pipe() -> Iterator[list[bytes]]:
    """What is written to a pipe by each call, while standard error is one."""
    calls: list[bytes] = []
    real = os.write

    def write(descriptor: int, data: bytes) -> int:
        if descriptor == writing:
            calls.append(data)
        return real(descriptor, data)

    reading, writing = os.pipe()
    with (
        written(),
        open(writing, "w", encoding="utf-8") as pipe,
        open(reading, "rb"),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(sys, "stderr", pipe)
        patch.setattr(os, "write", write)
        yield calls


def test_lines_that_come_together_are_written_together() -> None:
    """Each once, in their order, whole lines in each write, and no write larger than a pipe takes at once."""
    log = logs.get("receiver")
    with writes_to_a_pipe() as writes, logs.together():
        for number in range(50):
            log.info("line", number=number, a="ä" * number)
    assert 1 < len(writes) < 10
    assert all(len(data) <= select.PIPE_BUF and data.endswith(b"\n") for data in writes)
    lines = b"".join(writes).decode().splitlines()
    assert [line.split(" receiver INFO line number=", 1)[1].split(" ")[0] for line in lines] == list(
        map(str, range(50))
    )


def test_lines_that_come_together_do_not_wait_for_long() -> None:
    """They are there when the block ends, however it ends, and those after it are written one by one again."""
    log = logs.get("receiver")
    with writes_to_a_pipe() as writes:
        with contextlib.suppress(ZeroDivisionError), logs.together():
            with logs.together():
                log.info("first")
            log.info("second")
            assert writes == []
            raise ZeroDivisionError
        assert [data.count(b"\n") for data in writes] == [2]
        log.info("third")
        log.info("fourth")
        assert [data.count(b"\n") for data in writes] == [2, 1, 1]


def test_lines_of_other_threads_do_not_wait() -> None:
    """Only the thread that is in the block gathers."""
    with writes_to_a_pipe() as writes:
        with logs.together():
            logs.get("receiver").info("mine")
            other = threading.Thread(target=logs.get("receiver").info, args=("theirs",))
            other.start()
            other.join()
            assert [b"theirs" in data for data in writes] == [True]
        assert [b"mine" in data for data in writes] == [False, True]


def test_lines_that_came_together_and_are_lost_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them."""
    with written() as later:
        with monkeypatch.context() as patch, logs.together():
            patch.setattr(sys, "stderr", ClosedStream())
            for _ in range(100):
                logs.get("receiver").info("lost", a="x" * 100)
        logs.get("receiver").info("back")
    first, second = (line for line in later.getvalue().splitlines() if " INFO lost " not in line)
    kept = later.getvalue().count(" INFO lost ")
    assert first.endswith(f"WARNING log lines lost: standard error did not take them lines={100 - kept}")
    assert second.endswith("INFO back")
    assert kept < 100


def test_arguments_that_do_not_fit_lose_no_line() -> None:
    """A slip in a format string is told without raising."""
    with written() as stream:
        logging.getLogger("receiver").warning("%d files", "no")
    assert line_of(stream) == "WARNING [unprintable]"


# --- OncePer


def test_a_key_is_ready_once_in_its_time() -> None:
    """Each key is ready at first, and again when its time is over, counted from when it was last ready."""
    now = 100.0
    once = logs.OncePer(60, clock=lambda: now)
    assert [once.ready("a"), once.ready("a"), once.ready("b")] == [True, False, True]
    now = 159.9
    assert not once.ready("a")
    now = 160.0
    assert [once.ready("a"), once.ready("a")] == [True, False]
    now = 219.9
    assert once.ready("b")
    assert not once.ready("a")


def test_made_up_keys_cost_bounded_memory_and_lines() -> None:
    """A peer with a new name for each try gets a thousand lines in that time, and is forgotten after it."""
    now = 0.0
    once = logs.OncePer(60, clock=lambda: now)
    assert sum(once.ready(number) for number in range(5000)) == 1000
    assert len(once._since) == 1000
    now = 60.0
    assert once.ready("late")
    assert len(once._since) == 1


def test_a_key_is_ready_for_one_thread_only() -> None:
    """Of threads that ask at the same time, one is told yes."""

    class SlowKey(str):
        __slots__ = ()

        def __hash__(self) -> int:
            time.sleep(0.002)
            return 1

    once = logs.OncePer(60)
    answers: list[bool] = []
    threads = [threading.Thread(target=lambda: answers.append(once.ready(SlowKey("a")))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False] * 15 + [True]
