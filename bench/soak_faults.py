"""What goes wrong during a soak, one thing after another: switched on, and off again after a while."""

import contextlib
import itertools
import socket
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from bench import samples, scu
from bench.samples import uid
from bench.soak_processes import Child, Processes
from bench.soak_senders import Senders
from sandbox.running import RunningSandbox

_SILENT_PEERS = 24


class Fault(ABC):
    """Something that goes wrong."""

    name: str

    @abstractmethod
    def on(self) -> None:
        """Switch it on."""

    @abstractmethod
    def off(self) -> None:
        """Switch it off."""


class ArchiveFault(Fault):
    """The archive misbehaves by a rule of the sandbox."""

    def __init__(self, name: str, sandbox: RunningSandbox, rule: str) -> None:
        self.name = name
        self._sandbox, self._rule = sandbox, rule

    def on(self) -> None:
        """Add the rule."""
        self._sandbox.add_rule(self._rule)

    def off(self) -> None:
        """Remove all rules."""
        self._sandbox.clear_rules()


class Refusals(Fault):
    """The archive refuses single instances for good, which must end in quarantine alone."""

    name = "archive refuses single instances"
    _COUNT = 5

    def __init__(self, sandbox: RunningSandbox, senders: Senders) -> None:
        self._sandbox, self._senders = sandbox, senders
        self.refused: set[int] = set()

    def on(self) -> None:
        """Refuse some that are still to come."""
        first = self._senders.coming + 1
        for number in range(first, first + self._COUNT):
            self.refused.add(number)
            self._sandbox.add_rule(f"uid={uid(number)},fail=0xC000")

    def off(self) -> None:
        """The rules stay: an instance that was refused must not be taken later, so that all can be accounted for."""


class Killed(Fault):
    """A process is killed, and comes back at the end of the fault."""

    def __init__(self, module: str, child: Child) -> None:
        self.name = f"{module} killed"
        self._child = child

    def on(self) -> None:
        """SIGKILL."""
        self._child.kill()

    def off(self) -> None:
        """Start it again."""
        self._child.start()


class SilentPeers(Fault):
    """Peers that connect and say nothing, begin a request, or stop in the middle of a dataset."""

    name = "silent peers"

    def __init__(self, port: int) -> None:
        self._port = port
        self._connections: list[socket.socket] = []

    def on(self) -> None:
        """Connect."""
        request = scu.proposal(samples.SMALL.sop_class_uid, 1)
        half = scu.message(samples.SMALL, 0, 16384)[:5000]
        starts: Sequence[bytes] = (b"", request[:40], request + half, request + struct.pack(">BxI", 4, 0xFFFFFFFF))
        for number in range(_SILENT_PEERS):
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", self._port), 10)
                self._connections.append(connection)
                connection.sendall(starts[number % len(starts)])

    def off(self) -> None:
        """Close what the receivers have not."""
        while self._connections:
            self._connections.pop().close()


def faults(sandbox: RunningSandbox, processes: Processes, senders: Senders) -> tuple[list[Fault], Refusals]:
    """All of them in their order, and the one whose refusals are to be accounted for."""
    refusals = Refusals(sandbox, senders)
    return [
        ArchiveFault("archive 503", sandbox, "status=503"),
        Killed("receiver", processes.victims["receiver"]),
        ArchiveFault("archive slow", sandbox, "delay=0.5"),
        SilentPeers(processes.port),
        refusals,
        Killed("uploader", processes.victims["uploader"]),
        ArchiveFault("archive resets", sandbox, "every=2,drop=during"),
        ArchiveFault("archive loses answers", sandbox, "every=2,drop=after"),
    ], refusals


class Schedule:
    """Takes the faults one after another: so long calm, so long wrong.

    Args:
        everything: the faults.
        senders: are told what is wrong.
        calm_seconds: before each fault.
        wrong_seconds: of each fault.
    """

    def __init__(
        self, everything: Sequence[Fault], senders: Senders, calm_seconds: float, wrong_seconds: float
    ) -> None:
        self._turns: Iterator[Fault] = itertools.cycle(everything)
        self._senders = senders
        self._seconds = calm_seconds, wrong_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="faults")
        self.counts: dict[str, int] = {fault.name: 0 for fault in everything}
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Begin with a calm."""
        self._thread.start()

    def stop(self) -> None:
        """Switch off what is on, and end.

        Raises:
            BaseException: a fault could not be switched on or off.
        """
        self._over.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        calm, wrong = self._seconds
        try:
            while not self._over.wait(calm):
                fault = next(self._turns)
                self._senders.fault = fault.name
                try:
                    fault.on()
                    self.counts[fault.name] += 1
                    self._over.wait(wrong)
                finally:
                    fault.off()
                    self._settle()
                    self._senders.fault = ""
        except BaseException as error:  # noqa: BLE001 - told to whoever stops the schedule
            self.failure = error

    def _settle(self) -> None:
        """What a fault left waiting is worked off before a moment counts as calm."""
        self._over.wait(1)
