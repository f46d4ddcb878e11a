"""`python -m receiver [--config pipeline.ini]`: take instances by C-STORE into incoming/.

Exit status: 0 after a stop by SIGTERM or SIGINT, 1 if the spool, the ledger or the port cannot be used, 2 for a
broken configuration.
"""

import logging
import os
import signal
import sys
import threading
from types import FrameType

from common import logs
from common.config import load_or_exit
from common.errors import ConfigError, StowgateError
from common.ledger import Ledger
from common.spool import Spool
from receiver.intake import Intake
from receiver.scp import StorageScp, tls_context

log = logs.get("receiver")


def main(argv: list[str]) -> int:
    """Run the receiver until it is told to stop."""
    config = load_or_exit(argv, prog="receiver", files_of=("receiver",))
    os.umask(0o077)
    logs.setup(config.logging, "receiver")
    try:
        tls = tls_context(config.receiver)
        spool = Spool(config.spool.directory, config.spool.min_free)
        spool.prepare()
        if swept := spool.staging.sweep():
            log.info("removed what was not received completely", files=swept)
        scp = StorageScp(config.receiver, Intake(spool, Ledger(spool.ledger)), tls)
    except ConfigError as error:
        sys.stderr.write(f"receiver: the configuration is broken:\n{error}\n")
        return 2
    except StowgateError as error:
        log.error("cannot start", reason=str(error))
        return 1
    except OSError as error:
        log.error(
            "cannot start",
            reason=f"expected to listen on {config.receiver.host} port {config.receiver.port}, found: {error.strerror}",
        )
        return 1
    stopped = _stop_by_signal()
    scp.start()
    stopped.wait()
    log.info("stopping")
    if aborted := scp.stop(config.receiver.shutdown_seconds):
        log.warning("associations aborted, their senders were not answered", associations=aborted)
    log.info("stopped")
    logging.shutdown()
    # pynetdicom's threads are no daemons, and one that waits for a silent peer would keep the process.
    os._exit(0)


def _stop_by_signal() -> threading.Event:
    """An event that the first SIGTERM or SIGINT sets; the second one ends the process at once."""
    stopped = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del number, frame
        if stopped.is_set():
            os._exit(1)
        stopped.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    return stopped


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
