"""A gateway that something of everything happened to, and a bare app that answers for it, for tests of the metrics."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flask import Flask

from common.config import Config, ConsoleConfig, SpoolConfig
from common.instance import Instance
from common.ledger import Ledger
from common.ledger_reader import LedgerReader
from common.presence import Presence
from common.records import Cause, Outcome, Receipt, Sender, Transfer, utc_text
from common.spool import Spool
from console.activity import History
from console.web.monitoring import blueprint

PATIENT = "Secret-Patient-4711"
PEER_AE_TITLE = "AE-OF-THE-PEER"


@dataclass
class Watched:
    """It, and what its processes say."""

    folder: Path
    config: Config
    spool: Spool
    ledger: Ledger
    history: History
    receiver: dict[str, Any] = field(default_factory=dict)
    uploader: dict[str, Any] = field(default_factory=dict)
    presences: dict[str, Presence] = field(default_factory=dict)

    def app(self) -> Flask:
        """A bare app with nothing but monitoring."""
        app = Flask("monitoring")
        app.register_blueprint(blueprint(self.config, self.history))
        return app

    def start(self, role: str) -> None:
        """Let a process of a role say how it is."""
        facts = {"receiver": self.receiver, "uploader": self.uploader}[role]
        self.presences[role] = Presence(self.spool.directory, role, lambda: dict(facts))
        self.presences[role].start()

    def stop(self, role: str) -> None:
        """Let it end."""
        self.presences.pop(role).close()

    def receive(self, *names: str, size: int = 1000) -> None:
        """Enter instances."""
        sender = Sender(PEER_AE_TITLE, "STOWGATE", "192.0.2.7")
        for name in names:
            (self.spool.incoming / name).write_bytes(bytes(size))
            instance = Instance("1.2.840.10008.5.1.4.1.1.2", f"2.25.{abs(hash(name))}", "1.2.840.10008.1.2.1", PATIENT)
            self.ledger.received(Receipt(name, instance, sender, size))

    def quarantine(self, name: str, cause: Cause) -> None:
        """Give one up."""
        with self.spool.quarantine.reserve(name) as slot:
            slot.write_reason({"cause": cause})
            self.ledger.quarantined(Outcome(name, 409, cause, "no"), slot.name, attempts=1)
            slot.move()


@contextlib.contextmanager
def watched(folder: Path, **console: Any) -> Iterator[Watched]:
    """A gateway whose processes live, with an empty ledger, followed from its beginning."""
    spool = Spool(folder / "spool")
    spool.prepare()
    config = Config(
        folder / "pipeline.ini",
        spool=SpoolConfig(directory=spool.directory, min_free=1_000_000),
        console=ConsoleConfig(**console),
    )
    history = History(LedgerReader(spool.ledger))
    with contextlib.closing(Ledger(spool.ledger)) as ledger:
        history.follow()
        gateway = Watched(folder, config, spool, ledger, history)
        now = datetime.now(UTC)
        gateway.receiver |= {"associations": 3, "refused": {"A700": 2}, "rejected": {"calling-ae-title": 5}}
        gateway.uploader |= {
            "destination": {"mode": "open", "reason": "", "http_status": None, "since": utc_text(now)},
            "waiting": 1,
            "under_way": 2,
            "threads": 4,
        }
        gateway.start("receiver")
        gateway.start("uploader")
        try:
            yield gateway
        finally:
            for presence in gateway.presences.values():
                presence.close()


def with_a_past(gateway: Watched) -> Watched:
    """Three sent, one of them a duplicate; one waits and was tried; two in quarantine; a request under way."""
    names = [f"{number:032x}.dcm" for number in range(6)]
    gateway.receive(*names)
    gateway.ledger.sent([Outcome(names[0], 200), Outcome(names[1], 200), Outcome(names[2], 200, Cause.DUPLICATE)])
    for name in names[:3]:
        (gateway.spool.incoming / name).unlink()
    due = datetime.now(UTC) + timedelta(seconds=60)
    gateway.ledger.retried([Outcome(names[3], 500, Cause.GAVE_UP, "a detail", due)])
    gateway.quarantine(names[4], Cause.REFUSED)
    gateway.quarantine(names[5], Cause.CONFLICT)
    now = datetime.now(UTC)
    gateway.ledger.transferring([Transfer(names[3], 1, 1000, 400, now, now - timedelta(seconds=30))], ())
    gateway.history.follow()
    return gateway
