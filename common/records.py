"""The words and records of the ledger: states, events, causes, and what a row holds. No SQL.

State value, folder name, command-line word and metric label are the same word.
"""

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import NamedTuple

from common.sop_instance import Instance

_ESCAPED = re.compile(rb"\\x([89a-f][0-9a-f])")


class State(StrEnum):
    """Where the file of a row is."""

    INCOMING = "incoming"
    """In incoming/: owed to the destination."""
    SENT = "sent"
    """The destination confirmed it, the file is deleted."""
    QUARANTINE = "quarantine"
    """In quarantine/, `cause` says why."""
    REMOVED = "removed"
    """It disappeared by no act of ours."""


class Event(StrEnum):
    """What happened to a file."""

    RECEIVED = "received"
    """A receiver stored it."""
    ADOPTED = "adopted"
    """It was found in a folder without a row: dropped by hand, or the ledger was lost."""
    ATTEMPT = "attempt"
    """A delivery whose outcome was about this instance, and which did not settle it."""
    SENT = "sent"
    """The destination named it as stored."""
    QUARANTINED = "quarantined"
    """It was refused for good, or given up."""
    RELEASED = "released"
    """A person moved it from quarantine/ back to incoming/."""
    REMOVED = "removed"
    """A person took it away."""


class Cause(StrEnum):
    """Why a file is in quarantine, or what was special about sending it."""

    NONE = ""
    """Sent, plainly; or not settled."""
    NOT_DICOM = "not-dicom"
    """No Part 10 file."""
    TRUNCATED = "truncated"
    """It ends inside a data element."""
    NOT_STORABLE = "not-storable"
    """A DICOMDIR, or no SOP Class or Instance UID."""
    UNREADABLE = "unreadable"
    """It cannot be opened or parsed."""
    NOT_A_FILE = "not-a-file"
    """A symbolic link, FIFO, socket or device."""
    REFUSED = "refused"
    """The archive refused it for good, with a FailureReason or an HTTP status."""
    TOO_LARGE = "too-large"
    """The archive answered 413 to this instance alone."""
    CONFLICT = "conflict"
    """The archive answered 409 to this instance alone, without a reason, or has another one under its UID."""
    UNCONFIRMED = "unconfirmed"
    """The archive answered success again and again without naming the instance as stored, or does not have it."""
    GAVE_UP = "gave-up"
    """Temporary failures of this instance alone, up to the limit of attempts."""
    DUPLICATE = "duplicate"
    """Sent: the archive had it already."""
    WARNING = "warning"
    """Sent: stored with a WarningReason, which is in the event."""


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sent an instance: AE titles of the association and the peer's address."""

    calling_ae_title: str
    called_ae_title: str
    peer_address: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """An instance that a receiver has stored: its name in incoming/, what it is, who sent it, its size there."""

    file_name: str
    instance: Instance
    sender: Sender
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Row:
    """One row of `instances`, typed. See schema.sql for the columns."""

    id: int
    file_name: str
    sop_instance_uid: str
    sop_class_uid: str
    patient_id: str
    study_instance_uid: str
    series_instance_uid: str
    modality: str
    transfer_syntax_uid: str
    calling_ae_title: str
    called_ae_title: str
    peer_address: str
    size_bytes: int
    received_at: str
    state: State
    attempts: int
    next_attempt_at: str | None
    cause: Cause
    http_status: int | None
    settled_at: str | None


@dataclass(frozen=True, slots=True)
class Owed:
    """What the ledger says of a file that is owed: when it is due (None: now), who sent it, which study it is of."""

    next_attempt_at: str | None
    calling_ae_title: str
    study_instance_uid: str


class Known(NamedTuple):
    """What the ledger says of a file that is owed, as far as a delivery asks: what it is, and how it fared."""

    sop_instance_uid: str
    size_bytes: int
    attempts: int
    received_at: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """How far a request is that has been under way for a while.

    Attributes:
        file_name: the first of its files.
        instances: how many it holds.
        size_bytes: of the whole request.
        sent_bytes: handed to the network so far; as many as `size_bytes` while the answer is waited for.
        begun_at: when it began, an aware datetime.
        moved_at: when a byte went out last, likewise: long ago means that it is stuck, not slow.
    """

    file_name: str
    instances: int
    size_bytes: int
    sent_bytes: int
    begun_at: datetime
    moved_at: datetime


@dataclass(frozen=True, slots=True)
class EventRow:
    """One row of `events`, typed, with the file it belongs to."""

    file_name: str
    at: str
    event: Event
    http_status: int | None
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one delivery came to for one file: written to its row and, as an event, to its history.

    `next_attempt_at` is an aware datetime and counts for `retried` only.
    """

    file_name: str
    http_status: int | None = None
    cause: Cause = Cause.NONE
    detail: str = ""
    next_attempt_at: datetime | None = None


def utc_text(moment: datetime) -> str:
    """An aware datetime in the ledger's form: UTC, ISO 8601 with microseconds, Z."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def ledger_name(name: str) -> str:
    r"""A file name as the ledger keeps it: bytes that are no UTF-8 are written as \xNN."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def file_names(label: str) -> tuple[str, ...]:
    r"""The names that the ledger may keep as `label`: itself, and with each \xNN as the byte that it may stand for."""
    name = os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), os.fsencode(label)))
    return (label,) if name == label else (label, name)
