"""What `logs.setup` does to an interpreter, undone: tests share one."""

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator

from common.redaction import permit_patient_identifiers


@contextlib.contextmanager
def logging_restored() -> Iterator[None]:
    """Leave logging as it was before the block."""
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.raiseExceptions)
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    try:
        yield
    finally:
        root.level, root.handlers, logging.raiseExceptions = before
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        for name in ("common", "receiver", "uploader", "console", "sandbox", "__main__"):
            logging.getLogger(name).setLevel(logging.NOTSET)
        logging.captureWarnings(False)
        permit_patient_identifiers(permitted=False)
        # A level once looked up is kept by each logger.
        root.manager._clear_cache()  # type: ignore[attr-defined]
