"""`python -m uploader [--config pipeline.ini]`: deliver what is in incoming/; with --check, only ask the archive.

Exit status: 0 after a stop by SIGTERM or SIGINT, 1 if the spool or the ledger cannot be used at all, 2 for a
broken configuration. With --check: 1 if the archive does not answer as it should.
"""

import contextlib
import logging
import os
import resource
import signal
import sys
import threading
from types import FrameType

import common.without_decoders  # noqa: F401 - first
from common import logs
from common.config import Config, loaded_or_exit, parser_of
from common.errors import StowgateError
from common.ledger import Ledger
from common.presence import Presence
from common.spool import Spool
from uploader.backlog import Backlog
from uploader.checking import print_check
from uploader.delivery import Backoff, Delivery
from uploader.destination import Destination
from uploader.notices import ProbeNow
from uploader.progress import Progress
from uploader.rebuilding import Rebuilding
from uploader.reconciling import Reconciling
from uploader.retrieve import Archive
from uploader.scheduler import Rescan, Scheduler, Seen
from uploader.stow import StowClient
from uploader.watcher import Watcher
from uploader.watching import Watching

log = logs.get("uploader")

_REVIVE_SECONDS = 5.0
_LAST_SECONDS = 2.0  # for deliveries that are cut, to let go


def main(argv: list[str]) -> int:
    """Run the uploader until it is told to stop."""
    parser = parser_of("uploader")
    parser.add_argument(
        "--check",
        action="store_true",
        help="make one harmless request to the archive, as deliveries would be made, print as JSON what it came to, and"
        " end; nothing is stored",
    )
    options = parser.parse_args(argv)
    config = loaded_or_exit(options.config, prog="uploader", files_of=("destination",))
    if options.check:
        return print_check(config.destination)
    os.umask(0o077)
    raise_descriptor_limit()
    logs.setup(config.logging, "uploader")
    try:
        return _Uploader(config).run()
    except StowgateError as error:
        log.error("cannot start", reason=str(error))
        return 1


def raise_descriptor_limit() -> None:
    """Allow as many open files as this process may have at all: each instance of each request under way is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Uploader:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._stopped = threading.Event()
        spool = Spool(config.spool.directory, config.spool.min_free)
        spool.prepare()
        spool.quarantine.sweep()
        ledger = Ledger(spool.ledger, durable=True)
        options = config.uploader
        progress = Progress()
        self._client = StowClient(config.destination, options.backoff_initial_seconds, progress=progress)
        self._watching = Watching(progress, ledger.transferring)
        backoff = Backoff(options.backoff_initial_seconds, options.backoff_max_seconds, options.max_attempts)
        archive = Archive(self._client, config.destination.verify)
        backlog = Backlog(config.spool.settle_seconds, large_bytes=options.batch_size)
        self._scheduler = Scheduler(
            spool=spool,
            delivery=Delivery(spool, ledger, self._client, backoff, confirm=archive.confirm),
            backlog=backlog,
            destination=Destination(options.backoff_initial_seconds, options.backoff_max_seconds),
            reconciling=Reconciling(
                spool,
                ledger,
                backlog,
                backoff_max=options.backoff_max_seconds,
                empty_folder_seconds=config.spool.rescan_seconds,
                enter=Rebuilding(spool, ledger, self._stopped).enter,
            ),
            spool_config=config.spool,
            config=options,
        )
        self._watcher = Watcher(
            spool.incoming,
            lambda name, closed, folder: self._scheduler.notice(Seen(name, closed, folder)),
            lambda: self._scheduler.notice(Rescan()),
        )
        self._presence = Presence(
            spool.directory,
            "uploader",
            self._scheduler.facts,
            probe=lambda: self._scheduler.notice(ProbeNow()),
        )

    def run(self) -> int:
        signal.signal(signal.SIGTERM, self._signal)
        signal.signal(signal.SIGINT, self._signal)
        # The watcher first, then the scan: what appears in between is seen twice, never missed.
        self._watcher.start()
        threading.Thread(target=self._keep_watching, name="revive", daemon=True).start()
        threading.Thread(target=self._watching.run, args=(self._stopped,), name="watching", daemon=True).start()
        self._presence.start()
        log.info("delivering", url=self._config.destination.url, threads=self._config.uploader.threads)
        self._scheduler.run()
        return self._finish()

    def _signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self._stopped.is_set():
            os._exit(1)
        self._stopped.set()
        self._client.stop_trying()
        self._scheduler.stop()

    def _keep_watching(self) -> None:
        while not self._stopped.wait(_REVIVE_SECONDS):
            try:
                self._watcher.revive()
            except Exception:
                log.exception("incoming is not watched, rescans alone find files")

    def _finish(self) -> int:
        log.info("stopping", deliveries=self._scheduler.under_way)
        self._watcher.stop()
        if not self._scheduler.drain(self._config.uploader.shutdown_seconds):
            self._client.cut()
            if not self._scheduler.drain(_LAST_SECONDS):
                log.warning("deliveries cut, their files stay in incoming", deliveries=self._scheduler.under_way)
        self._watching.close()
        self._presence.close()
        log.info("stopped")
        logging.shutdown()
        # A thread that waits for an answer cannot be ended; the kernel drops its claims with the process.
        os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
