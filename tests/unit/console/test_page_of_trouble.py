"""The overview when nothing is as it should be: every panel tells its part, and no panel breaks."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.config import Config, SpoolConfig
from common.ledger_reader import Heap, LedgerReader
from common.presence import Process
from common.records import Cause, State, Transfer
from console.activity import History
from console.looking import Looking
from console.overview import DestinationView, Disk, Overview, Severity, Trouble
from console.web import create_app

NOW = datetime(2026, 11, 24, 12, 0, tzinfo=UTC)
DROPPED = "Mustermann_Erika.dcm"


def page_of(folder: Path, overview: Overview, path: str = "/") -> str:
    """What the page says of an overview to who is not signed in."""
    config = Config(folder / "pipeline.ini", spool=SpoolConfig(directory=folder))
    looking = Looking(config, lambda _config: overview)
    app = create_app(config, History(LedgerReader(folder / "ledger.db")), looking=looking)
    answer = app.test_client().get(path, base_url="http://localhost:11180")
    assert answer.status_code == 200
    return " ".join(answer.text.split())


def test_every_panel_tells_its_part(tmp_path: Path) -> None:
    """The pause with its error and probe, a transfer that stands still, a silent process, a full disk."""
    said = page_of(
        tmp_path,
        Overview(
            at=NOW,
            destination=DestinationView(
                "https://archive.example/dicom-web",
                "paused",
                "connection refused",
                502,
                NOW - timedelta(minutes=3),
                NOW + timedelta(seconds=75),
            ),
            heaps={
                State.INCOMING: Heap(1234, 5_000_000, "2026-11-24T11:00:00.000000Z"),
                State.QUARANTINE: Heap(2, 10, "2026-11-24T11:00:00.000000Z"),
                State.SENT: Heap(99_000),
                State.REMOVED: Heap(0),
            },
            causes={Cause.TOO_LARGE: Heap(2, 10)},
            oldest_waiting=NOW - timedelta(hours=1),
            transfers={
                DROPPED: Transfer(
                    DROPPED, 3, 2_000_000, 500_000, NOW - timedelta(minutes=2), NOW - timedelta(seconds=61)
                )
            },
            processes=(Process("uploader", 42, "host", NOW - timedelta(days=1), NOW - timedelta(seconds=50)),),
            disk=Disk(10**12, 5 * 10**8, 10**9),
            troubles=(
                Trouble("paused", Severity.ERROR, "The destination is paused: connection refused.", "Probe now."),
                Trouble("old", Severity.WARNING, "Instances wait for long.", "See what is waiting."),
            ),
        ),
    )
    for text in (
        "Not all is well: the destination is paused, and 1 more thing to see.",
        "Probe now.",
        "<b>1,234</b>",
        "the oldest for 1 h",
        "Connection refused (HTTP 502)",
        "for 3 min",
        "in 1 min 15 s",
        '<progress max="100" value="25"',
        "500 KB of 2.0 MB; no byte for 1 min 1 s",
        "says nothing",
        "500 MB free of 1.0 TB",
        "Too large for the archive",
        "99,000 in all",
    ):
        assert text in said, text
    assert "Mustermann" not in said
    assert "dropped-" in said


@pytest.mark.parametrize("path", ["/", "/?span=day", "/?span=nonsense", "/live/overview"])
def test_where_nothing_is_known_the_page_says_that(tmp_path: Path, path: str) -> None:
    """No ledger, no disk, no process."""
    trouble = Trouble("ledger", Severity.ERROR, "The ledger cannot be read now.", "See docs/operating.md.")
    overview = Overview(NOW, DestinationView("http://x"), ledger_error="away", troubles=(trouble,))
    said = page_of(tmp_path, overview, path)
    assert "the ledger cannot be read now." in said
    assert "The disk cannot be asked." in said
    assert "No process says that it lives." in said
    assert "<b>unknown</b>" in said
