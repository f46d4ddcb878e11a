"""The checker of the reliability tests sees each kind of disagreement."""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from common.instance import Instance
from common.ledger import Ledger
from common.part10 import part10_header
from common.records import Cause, Outcome, Receipt, Sender
from common.spool import Spool
from support.agreement import dataset_digest, disagreements, lost

EXPLICIT = "1.2.840.10008.1.2.1"
INSTANCE = Instance("1.2.840.10008.5.1.4.1.1.2", "1.3", EXPLICIT)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """A spool with one file owed, one sent, one in quarantine and one being received."""
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    ledger = Ledger(spool.ledger)
    for name in ("owed.dcm", "sent.dcm", "refused.dcm"):
        content = part10_header(INSTANCE.sop_class_uid, INSTANCE.sop_instance_uid, EXPLICIT) + name.encode()
        (spool.incoming / name).write_bytes(content)
        ledger.received(Receipt(name, INSTANCE, Sender("A", "B", "C"), len(content)))
    ledger.sent([Outcome("sent.dcm", 200)])
    (spool.incoming / "sent.dcm").unlink()
    with spool.quarantine.reserve("refused.dcm") as slot:
        slot.write_reason({"cause": "refused"})
        ledger.quarantined(Outcome("refused.dcm", 409, Cause.REFUSED), "refused.dcm", attempts=1)
        slot.move()
    ledger.close()
    return spool


@pytest.fixture
def change(spool: Spool) -> Callable[[str], None]:
    """Changes the ledger behind everybody's back."""

    def change(statement: str) -> None:
        with sqlite3.connect(spool.ledger) as connection:
            connection.execute(statement)

    return change


def test_a_spool_in_order_has_none(spool: Spool) -> None:
    """Nor has one with a file that a living receiver has claimed."""
    staged = spool.staging.open()
    assert disagreements(spool) == []
    staged.withdraw()


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("incoming/new.dcm", "incoming/new.dcm is unknown in the ledger"),
        ("incoming/.probe-1.part", "incoming/.probe-1.part is unknown in the ledger"),
        ("incoming/sent.dcm", "incoming/sent.dcm is sent in the ledger"),
        ("quarantine/new.dcm", "quarantine/new.dcm is unknown in the ledger"),
        ("quarantine/.0.part", "quarantine/.0.part is unknown in the ledger"),
        ("quarantine/sent.dcm.json", "quarantine/sent.dcm.json stands alone"),
        ("staging/0.dcm", "staging/0.dcm is nobody's"),
    ],
)
def test_a_file_too_many_is_seen(spool: Spool, path: str, found: str) -> None:
    """In any folder."""
    (spool.directory / path).write_bytes(b"left by somebody")
    assert disagreements(spool) == [found]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("incoming/owed.dcm", ["owed.dcm is incoming in the ledger, and no such file is there"]),
        (
            "quarantine/refused.dcm",
            [
                "quarantine/refused.dcm.json stands alone",
                "refused.dcm is quarantine in the ledger, and no such file is there",
            ],
        ),
        ("quarantine/refused.dcm.json", ["quarantine/refused.dcm.json says FileNotFoundError, the ledger refused"]),
    ],
)
def test_a_file_too_few_is_seen(spool: Spool, path: str, found: list[str]) -> None:
    """Rows without their file, and files without their sidecar."""
    (spool.directory / path).unlink()
    assert disagreements(spool) == found


def test_another_content_is_seen(spool: Spool) -> None:
    """A file of another size, a sidecar of another cause."""
    (spool.incoming / "owed.dcm").write_bytes(b"short")
    (spool.quarantine.path / "refused.dcm.json").write_text('{"cause": "conflict"}')
    assert [text.partition(" ")[0] for text in disagreements(spool)] == [
        "incoming/owed.dcm",
        "quarantine/refused.dcm.json",
    ]


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("DELETE FROM instances WHERE file_name = 'owed.dcm'", "incoming/owed.dcm is unknown in the ledger"),
        (
            "UPDATE instances SET state = 'removed' WHERE file_name = 'sent.dcm'",
            "sent.dcm is removed in the ledger, its last event is sent",
        ),
        ("DELETE FROM events WHERE event = 'quarantined'", "refused.dcm is quarantine in the ledger"),
    ],
)
def test_a_ledger_that_says_otherwise_is_seen(
    spool: Spool, change: Callable[[str], None], statement: str, found: str
) -> None:
    """A row that is missing, and a state that the last event does not explain."""
    change(statement)
    assert any(text.startswith(found) for text in disagreements(spool))


def test_what_is_nowhere_is_lost(spool: Spool, tmp_path: Path) -> None:
    """An instance counts where its bytes are, whatever their file is called; other bytes do not count."""
    digest = dataset_digest(spool.incoming / "owed.dcm")
    archive = tmp_path / "archive"
    archive.mkdir()
    assert lost({"1.3": digest}, spool, archive) == []
    os.rename(spool.incoming / "owed.dcm", archive / "1.3.dcm")
    assert lost({"1.3": digest}, spool, archive) == []
    with open(archive / "1.3.dcm", "ab") as file:
        file.write(b"!")
    assert lost({"1.3": digest}, spool, archive) == ["1.3 was acknowledged, and its bytes are nowhere"]
    os.unlink(archive / "1.3.dcm")
    assert len(lost({"1.3": digest}, spool, archive)) == 1
