import io
from dataclasses import replace

import pytest

from common.records import Cause, Row, State
from sandbox.demo.report import Report, size
from sandbox.demo.stage import LogLine

SENT = Row(
    id=1, file_name="0123456789abcdef0123456789abcdef.dcm", sop_instance_uid="2.25.1", sop_class_uid="1.2",
    patient_id="DEMO-RETINA", study_instance_uid="2.25.2", series_instance_uid="2.25.3", modality="OP",
    transfer_syntax_uid="1.2.840.10008.1.2.1", calling_ae_title="A", called_ae_title="B", peer_address="127.0.0.1",
    size_bytes=1_770_998, received_at="2026-01-15T10:30:00.000000Z", state=State.SENT, attempts=1,
    next_attempt_at=None, cause=Cause.NONE, http_status=200, settled_at="2026-01-15T10:30:01.250000Z",
)  # fmt: skip
REFUSED = replace(SENT, file_name="dropped by hand.dcm", state=State.QUARANTINE, cause=Cause.REFUSED)
OWED = replace(SENT, state=State.INCOMING, settled_at=None)


class Terminal(io.StringIO):
    """What says that it is one."""

    def isatty(self) -> bool:  # noqa: D102  as in io
        return True


def test_the_table_has_a_line_for_each_row() -> None:
    """Patient ID, modality, size, state with its cause, the time it took, and the file name."""
    output = io.StringIO()
    Report(output).table([SENT, REFUSED, OWED])
    title, *lines = output.getvalue().splitlines()
    assert title.split("  ")[1] == "Patient ID"
    assert lines[0].split() == ["DEMO-RETINA", "OP", "1.8", "MB", "sent", "1.25", "s", SENT.file_name]
    assert "quarantine (refused)" in lines[1]
    assert lines[1].endswith("dropped by hand.dcm")
    assert "not settled" in lines[2]


@pytest.mark.parametrize(("columns", "cut"), [(80, 3), (100, 3), (120, 2)])
def test_no_line_of_the_table_or_the_log_is_broken_by_the_terminal(
    columns: int, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is too long for it is cut, and ends in an ellipsis."""
    monkeypatch.setenv("COLUMNS", str(columns))
    output = io.StringIO()
    report = Report(output)
    report.table([SENT, replace(REFUSED, file_name="x" * 300)])
    report.log(LogLine("10:30:00", "receiver.1", "stored " + "x" * 300))
    assert max(map(len, output.getvalue().splitlines())) <= columns
    assert output.getvalue().count("…") == cut


@pytest.mark.parametrize(
    ("stream", "no_color", "escapes"),
    [(Terminal, "", 5), (Terminal, "1", 0), (io.StringIO, "", 0)],
    ids=["terminal", "NO_COLOR", "pipe"],
)
def test_colours_are_for_terminals_only(
    stream: type[io.StringIO], no_color: str, escapes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe gets plain text, and so does whoever sets NO_COLOR."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    output = stream()
    report = Report(output)
    report.heading("heading")
    report.good("good")
    report.log(LogLine("10:30:00", "uploader.1", "2026-01-15T10:30:00.000000Z uploader ERROR paused"))
    report.table([SENT])
    assert output.getvalue().count("\033[0m") == escapes


def test_a_line_of_the_log_says_nothing_twice() -> None:
    """honcho has said time and name; those that the process wrote are left out."""
    output = io.StringIO()
    report = Report(output)
    report.log(LogLine("10:30:00", "uploader.1", "2026-01-15T10:30:00.000000Z uploader INFO sent file=x"))
    report.log(LogLine("10:30:00", "sandbox.1", "sandbox: stored 1 → 200"))
    assert output.getvalue() == "  │ 10:30:00 uploader.1 INFO sent file=x\n  │ 10:30:00 sandbox.1  stored 1 → 200\n"


def test_sizes_are_said_as_a_person_says_them() -> None:
    """Bytes, kilobytes and megabytes, by thousands."""
    assert [size(count) for count in (6, 999, 132_338, 1_770_998)] == ["6 B", "999 B", "132 KB", "1.8 MB"]
