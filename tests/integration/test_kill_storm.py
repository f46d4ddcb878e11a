"""The kill storm: four senders that send again what was not acknowledged, and processes that are killed at random.

STOWGATE_STORM_KILLS: how many kills; STOWGATE_STORM_SEED: of the choice and the moments, to repeat a storm as far as it
can be repeated. `make test-storm` is the long form.
"""

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from gateway import Gateway
from resending_sender import DcmtkSender, ResendingSender, ToSend, instances

from common.records import State
from sandbox.running import running_sandbox
from support.pipeline import Process
from support.programs import needs_dcmtk

KILLS = int(os.environ.get("STOWGATE_STORM_KILLS", "12"))
SEED = int(os.environ.get("STOWGATE_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 1_000_000)
PROCESSES = ("receiver", "receiver", "uploader", "uploader")
PAUSE = (0.0, 0.8)  # seconds between kills; a process is ready after about half a second
LOOKS = 5  # how often it is asked during the storm whether anything is lost


def lists(until: threading.Event, pixels: int) -> Iterator[ToSend]:
    """Instances to send, until it is enough."""
    return itertools.takewhile(lambda _: not until.is_set(), instances(None, pixels))


@dataclass
class Storm:
    """Kills and starts processes; each is started again at once, so that some are killed while they start."""

    gateway: Gateway
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    running: list[Process] = field(default_factory=list)

    def start(self) -> None:
        """Start all of them, and wait until they are ready."""
        self.running = [self.gateway.pipeline.start(module) for module in PROCESSES]

    def kill(self) -> None:
        """Kill one at random; of ten times, once all at a time, as a power cut would."""
        everyone = self.chance.random() < 0.1
        chosen = range(len(PROCESSES)) if everyone else [self.chance.randrange(len(PROCESSES))]
        for number in chosen:
            assert self.running[number].popen.poll() is None, f"a process ended by itself:\n{self._tail(number)}"
            self.running[number].popen.send_signal(signal.SIGKILL)
            self.kills[PROCESSES[number]] += 1
        for number in chosen:
            self.running[number].popen.wait(20)
            self.running[number] = self.gateway.pipeline.launch(PROCESSES[number])

    def _tail(self, number: int) -> str:
        return self.running[number].log()[-3000:]


@needs_dcmtk
@pytest.mark.timeout(120 + 4 * KILLS)
def test_nothing_acknowledged_is_lost_in_a_storm_of_kills(tmp_path: Path) -> None:
    """Two receivers and two uploaders on one spool, an archive that refuses some: all is delivered or quarantined."""
    print(f"\nkill storm: seed {SEED}, {KILLS} kills")  # noqa: T201 - a failure must be repeatable
    archive = tmp_path / "archive"
    with running_sandbox(
        archive, "--quiet", "--rule", "every=40,fail=0xA900", "--rule", "every=3,delay=0.05"
    ) as sandbox:
        gateway = Gateway(tmp_path / "gateway", sandbox, archive)
        try:
            numbers = storm(gateway, tmp_path)
        finally:
            gateway.pipeline.stop()
    print("kill storm: " + ", ".join(f"{key} {value}" for key, value in numbers.items()))  # noqa: T201


def storm(gateway: Gateway, folder: Path) -> dict[str, object]:
    """Send and kill; the numbers."""
    began = time.monotonic()
    storm = Storm(gateway, random.Random(SEED))  # noqa: S311 - to be repeatable
    storm.start()
    enough = threading.Event()
    port = gateway.pipeline.port
    senders = [
        ResendingSender(port, lists(enough, 256), "CT1"),
        ResendingSender(port, lists(enough, 20_000), "CT2"),
        ResendingSender(port, lists(enough, 400_000), "XA1"),
        DcmtkSender(port, lists(enough, 2_000), folder / "dcmtk", "US1"),
    ]
    threads = [threading.Thread(target=sender.run, daemon=True) for sender in senders]
    for thread in threads:
        thread.start()
    look_at = {KILLS * (number + 1) // LOOKS for number in range(LOOKS)}
    try:
        while (killed := storm.kills.total()) < KILLS:
            time.sleep(storm.chance.uniform(*PAUSE))
            storm.kill()
            if look_at & set(range(killed + 1, storm.kills.total() + 1)):
                look(gateway, senders)
    finally:
        enough.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "a sender is not done"
    look(gateway, senders)
    gateway.settles(120)
    posts = Counter(one["posts"] > 1 for one in gateway.sandbox.instances())
    rows = gateway.pipeline.counts()
    # Nobody took a file away, so no row may say so.
    assert rows[State.REMOVED] == 0
    assert rows[State.INCOMING] == 0
    acknowledged = len(gateway.acknowledged)
    return {
        "seed": SEED,
        "seconds": round(time.monotonic() - began),
        "kills": storm.kills.total(),
        "of receivers": storm.kills["receiver"],
        "of uploaders": storm.kills["uploader"],
        "acknowledged": acknowledged,
        "sent again by the senders": sum(sender.sent for sender in senders) - acknowledged,
        "refused": sum(sender.refused for sender in senders),
        "files received": sum(rows.values()),
        "sent to the archive more than once": posts[True],
        "in quarantine": rows[State.QUARANTINE],
        "lost": 0,
    }


def look(gateway: Gateway, senders: list[ResendingSender]) -> None:
    """Whether anything that was acknowledged by now is lost."""
    for sender in senders:
        gateway.acknowledged.update(dict(sender.acknowledged))
    gateway.nothing_is_lost()
