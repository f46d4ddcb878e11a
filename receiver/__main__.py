"""`python -m receiver [--config pipeline.ini]`: take instances by C-STORE into incoming/.

Exit status: 0 after a stop by SIGTERM or SIGINT, 1 if the spool, the ledger or the port cannot be used or after a
second signal, 2 for a broken configuration.
"""

import contextlib
import os
import queue
import resource
import signal
import socket
import sys
import time

import common.without_decoders  # noqa: F401 - first
from common import logs
from common.config import Config, load_or_exit
from common.errors import ConfigError, StowgateError
from common.ledger import Ledger
from common.presence import Presence
from common.spool import Spool
from receiver.intake import Intake
from receiver.scp import StorageScp
from receiver.tls import server_context

log = logs.get("receiver")

_STOP = frozenset((signal.SIGTERM, signal.SIGINT))
_LOOK_SECONDS = 1.0
_FILES_PER_ASSOCIATION = 4


def main(argv: list[str]) -> int:
    """Run the receiver until it is told to stop; the exit status."""
    config = load_or_exit(argv, prog="receiver", files_of=("receiver",))
    signals = _signals()
    os.umask(0o077)
    logs.setup(config.logging, "receiver")
    try:
        tls = server_context(config.receiver)
    except ConfigError as error:
        sys.stderr.write(f"receiver: the configuration {config.path} is broken:\n  {error}\n")
        return 2
    _allow_open_files(config.receiver.max_associations * _FILES_PER_ASSOCIATION + 512)
    try:
        spool = Spool(config.spool.directory, config.spool.min_free)
        spool.prepare()
        if swept := spool.staging.sweep():
            log.info("removed what was not received completely", files=swept)
        ledger = Ledger(spool.ledger)
    except StowgateError as error:
        log.error("cannot start", reason=error)
        return 1
    intake = Intake(spool, ledger)
    try:
        scp = StorageScp(config.receiver, intake, tls)
    except OSError as error:
        log.error("cannot start", reason=_cannot_listen(config, error))
        return 1
    presence = Presence(spool.directory, "receiver", scp.facts)
    presence.start()
    scp.start()
    exit_status = _serve(scp, signals, config.receiver.shutdown_seconds)
    presence.close()
    intake.close()
    ledger.close()
    log.info("stopped")
    return exit_status


def _signals() -> queue.SimpleQueue[int]:
    """Gets every signal to stop.

    They are handled, not blocked and waited for: a thread that a library started at its import (numpy's do, and pydicom
    imports it where it is installed) does not block them, and would let them end the process. Putting into this kind of
    queue is safe in whatever the main thread is interrupted.
    """
    signals: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in _STOP:
        signal.signal(number, lambda number, _frame: signals.put(number))
    return signals


def _got(signals: queue.SimpleQueue[int], seconds: float) -> bool:
    with contextlib.suppress(queue.Empty):
        signals.get(timeout=seconds)
        return True
    return False


def _serve(scp: StorageScp, signals: queue.SimpleQueue[int], shutdown_seconds: float) -> int:
    """Wait for a signal and stop gracefully; the exit status."""
    while not _got(signals, _LOOK_SECONDS):
        if not scp.is_accepting:
            log.error("stopping: connections are no longer accepted")
            return 1
    log.info("stopping", associations=scp.associations)
    deadline = time.monotonic() + shutdown_seconds
    scp.stop_accepting()
    while scp.associations and time.monotonic() < deadline:
        if _got(signals, 0.05):
            log.warning("stopped at once by a second signal", associations=scp.associations)
            os._exit(1)
    if aborted := scp.abort():
        log.warning("associations aborted; what they were sending was not acknowledged", associations=aborted)
    return 0


def _cannot_listen(config: Config, error: OSError) -> str:
    receiver = config.receiver
    found = "no such host" if isinstance(error, socket.gaierror) else error.strerror or type(error).__name__
    return f"expected to listen on {receiver.host} port {receiver.port}, found: {found}"


def _allow_open_files(wanted: int) -> None:
    """Raise the soft limit of open files as far as it is ours to raise: the usual 1024 is for shells."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
