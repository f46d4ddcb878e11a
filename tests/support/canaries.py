"""A patient whom every instance of the tests has, and who must not be named in any output, whatever goes wrong."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

NAME = "Canary^Zephyrine"
ID = "PID-88417"
BIRTH_DATE = "19580229"
_MARKS = ("canary", "zephyrine", ID.lower(), BIRTH_DATE)


def quotations(folder: Path) -> list[str]:
    """Where the patient is named: in the logs in a folder, in the sidecars and the events of the spool below it."""
    return [f"{mark} in {place}" for place, text in _outputs(folder) for mark in _MARKS if mark in text.lower()]


def _outputs(folder: Path) -> Iterator[tuple[str, str]]:
    for path in (*folder.glob("*.log"), *folder.glob("spool/quarantine/*.json")):
        with contextlib.suppress(OSError):  # a test may have put anything there
            if path.is_file() and not path.is_symlink():
                yield path.name, path.read_text(errors="replace")
    # Some tests damage it, or take it away.
    with contextlib.suppress(sqlite3.Error):
        connection = sqlite3.connect(f"file:{folder}/spool/ledger.db?mode=ro", uri=True)
        with contextlib.closing(connection):
            yield "events", "\n".join(detail for (detail,) in connection.execute("SELECT DISTINCT detail FROM events"))
