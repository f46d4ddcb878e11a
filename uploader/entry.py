"""One file that is owed, as far as this process knows, and where it belongs: plain data, without rules."""

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from common.records import Owed
from common.spool import Signature
from uploader.turns import Line


class Place(Enum):
    """Where an entry is."""

    READY = "ready"
    WAITING = "waiting"
    IN_HAND = "in hand"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an instance belongs: it shares the turns of its source, and in it those of its study.

    Attributes:
        source: the calling AE title, or the folder at the top of incoming/ that it was dropped with.
        study: the Study Instance UID, or the folder that the file lies in.
    """

    source: str
    study: str


NEW = Origin("", "")
"""Of a file about which nothing is known yet but a name in incoming/ itself."""


def origin_of(name: str, owed: Owed | None = None) -> Origin | None:
    """Where a file belongs; None if neither the ledger nor a folder tells."""
    if owed is not None and owed.calling_ae_title:
        return _shared(owed.calling_ae_title, owed.study_instance_uid)
    folder = name.rpartition("/")[0]
    study = owed.study_instance_uid if owed is not None else folder
    return _shared(folder.partition("/")[0], study) if study else None


@lru_cache(maxsize=10_000)
def _shared(source: str, study: str) -> Origin:
    return Origin(source, study)


@dataclass(slots=True, eq=False)
class Entry:
    """One file.

    Attributes:
        settled: nobody is writing to it any more, so it can be read and adopted, whatever the ledger says of it.
        trusted: it has a receiver's name, so it was renamed into place whole, until a delivery says otherwise.
        due: when it is looked at next, while waiting.
        large: it is so large that it goes alone, and stands in a line for such.
        limit: at most so many instances may be in a request with it; None: no limit.
        troubles: how often a request with it met trouble of the destination.
        failed_alone_at: when it last met trouble alone in a request; None: never.
        again: something happened to a file of its name while it was in hand.
        origin: as the ledger or the folder tells; None: not known yet, it is new.
        taken_at: when it was taken in hand last.
        line: where it stands, while ready, or stood, while in hand.
        slot: its place in that line, counted from the line's beginning.
    """

    name: str
    signature: Signature
    place: Place = Place.WAITING
    settled: bool = False
    trusted: bool = False
    due: float = 0.0
    large: bool = False
    limit: int | None = None
    troubles: int = 0
    failed_alone_at: float | None = None
    again: bool = False
    origin: Origin | None = None
    taken_at: float = 0.0
    line: "Line[Entry] | None" = None
    slot: int = -1
