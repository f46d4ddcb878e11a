"""What the command line reads from people and shows them: times, sizes, values that a sender wrote."""

from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from console.checks import filesystem
from console.cli import COMMANDS
from console.cli.export import guarded
from console.cli.times import moment_of
from console.words import duration, size

_NOW = datetime(2026, 11, 24, 19, 30, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30s", "2026-11-24T18:29:30"),
        ("2h", "2026-11-24T16:30:00"),
        ("15 min", "2026-11-24T18:15:00"),
        ("3d", "2026-11-21T18:30:00"),
        ("1w", "2026-11-17T18:30:00"),
        ("2026-11-24T14:30:00Z", "2026-11-24T14:30:00"),
        ("2026-11-24 14:30+02:00", "2026-11-24T12:30:00"),
    ],
)
def test_times_that_people_write(text: str, expected: str) -> None:
    """Spans before now, and moments."""
    assert moment_of(text, _NOW) == datetime.fromisoformat(expected).replace(tzinfo=UTC)


def test_a_day_begins_at_midnight_of_this_machine() -> None:
    """And so does today."""
    now = datetime.now().astimezone()
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    assert moment_of("today", now) == midnight
    assert moment_of(f"{now:%Y-%m-%d}", now) == midnight
    assert moment_of("yesterday", now) < midnight


@pytest.mark.parametrize("text", ["", "soon", "2", "2y", "-2h", "2026-13-01", "99:99"])
def test_what_is_no_time_is_refused(text: str) -> None:
    """By a ValueError, whatever it is."""
    with pytest.raises(ValueError, match=r".*"):
        moment_of(text, _NOW)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("=1+1", "'=1+1"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("  =1", "'  =1"),
        ("\uff1d1", "'\uff1d1"),
        ("\t=1", r"\t=1"),
        ("A=1", "A=1"),
        ("1.2.3", "1.2.3"),
        ("\x1b[31m", r"\x1b[31m"),
    ],
)
def test_no_value_is_a_formula(value: str, expected: str) -> None:
    """It stays readable."""
    assert guarded(value) == expected


def test_sizes_and_spans_have_at_most_two_units() -> None:
    """As people say them."""
    assert [size(count) for count in (0, 999, 1500, 2.5e6, 3e9)] == ["0 B", "999 B", "1.5 KB", "2.5 MB", "3.0 GB"]
    assert [duration(seconds) for seconds in (0, 59, 61, 7265, 90000)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "2 h 1 min",
        "1 d 1 h",
    ]


def test_the_filesystem_is_that_of_the_innermost_mount(tmp_path: Path) -> None:
    """Names with spaces are escaped in the list of mounts."""
    spool = tmp_path / "my spool"
    spool.mkdir()
    escaped = str(spool).replace(" ", "\\040")
    mounts = tmp_path / "mounts"
    mounts.write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"2 1 0:50 / {tmp_path} rw - tmpfs tmpfs rw\n"
        f"3 2 0:51 / {escaped} rw shared:1 - nfs4 nas:/spool rw\n"
        f"4 2 0:52 / {tmp_path}/my rw - xfs /dev/sdb rw\n"
    )
    assert filesystem(spool, mounts) == "nfs4"
    assert filesystem(tmp_path, mounts) == "tmpfs"
    assert filesystem(Path("/"), mounts) == "ext4"
    assert filesystem(spool, tmp_path / "none") == ""


def test_every_command_is_documented() -> None:
    """In docs/command-line.md, with a heading of its own."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "command-line.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"## {name}\n" not in page] == []
