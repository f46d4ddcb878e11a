"""Logging: one line on standard error for each thing worth saying, and no patient in it.

`setup` is called once at start. `get` gives a log whose fields are keywords:

    log = logs.get(__name__)
    log.info("stored", file=logs.file_label(name), size_bytes=size)

Unless patient identifiers are permitted, what others wrote is withheld: the texts of other libraries, Python
warnings and exceptions that are not ours can all quote a dataset. What remains is where they came from.

Nothing here is fatal. A line that cannot be written is lost, and counted: logging never raises into its
caller, and waits for the reader of standard error no longer than a moment.
"""

import logging
import sys
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from types import TracebackType

from common.log_lines import FIELDS, OUR_PACKAGES, JsonFormatter, TextFormatter, exception_text, is_ours
from common.log_output import StandardError, together
from common.redaction import escape, file_label, patient_identifiers_permitted, permit_patient_identifiers, redact
from common.settings import LogFormat, LoggingConfig

__all__ = ["Log", "OncePer", "escape", "exception_text", "file_label", "get", "redact", "setup", "together"]


class Log:
    """The log of one module. Each method writes one line: a constant text, then its fields as key=value.

    No field may carry patient data, except by a name that starts with `patient`, which is redacted. An
    exception as a value is shown as `exception_text` does.
    """

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, text: str, /, **fields: object) -> None:
        """Say one of many steps."""
        self._say(logging.DEBUG, text, fields)

    def info(self, text: str, /, **fields: object) -> None:
        """Say what happened as it should."""
        self._say(logging.INFO, text, fields)

    def warning(self, text: str, /, **fields: object) -> None:
        """Say what went wrong and is dealt with."""
        self._say(logging.WARNING, text, fields)

    def error(self, text: str, /, **fields: object) -> None:
        """Say what needs a person."""
        self._say(logging.ERROR, text, fields)

    def exception(self, text: str, /, **fields: object) -> None:
        """Say as an error what needs a person, with the exception being dealt with and its frames."""
        self._say(logging.ERROR, text, fields, exc_info=True)

    def _say(self, level: int, text: str, fields: dict[str, object], *, exc_info: bool = False) -> None:
        logger = self._logger
        if logger.isEnabledFor(level):
            # Logger.log would look through the stack for the caller's line, which takes as long as all the rest.
            record = logging.LogRecord(logger.name, level, "", 0, text, (), sys.exc_info() if exc_info else None)
            setattr(record, FIELDS, fields)
            logger.handle(record)


def get(name: str) -> Log:
    """Return the log of the module `name`, which is its `__name__`."""
    return Log(logging.getLogger(name))


def setup(config: LoggingConfig, process: str) -> None:
    """Send every log record, warning and uncaught exception of this process to standard error.

    Args:
        config: section [logging].
        process: the name of this process type, such as receiver, for each line.
    """
    permit_patient_identifiers(permitted=config.patient_identifiers)
    output = StandardError()
    output.setFormatter(JsonFormatter(process) if config.format is LogFormat.JSON else TextFormatter(process))
    output.addFilter(_is_worth_a_line)

    root = logging.getLogger()
    for earlier in [known for known in root.handlers if isinstance(known, StandardError)]:
        root.removeHandler(earlier)
    root.addHandler(output)
    # Set at the loggers too, so that a library does not build records by the thousand to have them dropped.
    root.setLevel(config.level if config.patient_identifiers else max(config.level, logging.WARNING))
    for package in OUR_PACKAGES:
        logging.getLogger(package).setLevel(config.level)

    # It warns of values that break the rules of their VR, quoting them; they are the archive's to judge.
    logging.getLogger("pydicom").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")

    # What no line shows need not be asked for: each record would ask for it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.raiseExceptions = False
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


class OncePer:
    """Says whether something may be logged again: at most once in `seconds` for each key.

    It remembers a thousand keys at most. While it is full, new keys are refused: who makes up a new name for
    each try cannot fill the log either.

    Args:
        seconds: the time between two lines about one key.
        clock: a monotonic clock in seconds.
    """

    _KEYS = 1000

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._since: OrderedDict[Hashable, float] = OrderedDict()

    def ready(self, key: Hashable) -> bool:
        """Return True, and start the time of `key` again, if it has not been ready for `seconds`."""
        with self._lock:
            now = self._clock()
            # In the order of their times, since a key is put in only when it is not there.
            while self._since and now - next(iter(self._since.values())) >= self._seconds:
                self._since.popitem(last=False)
            if key in self._since or len(self._since) >= self._KEYS:
                return False
            self._since[key] = now
            return True


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Refuse records below WARNING whose text would be withheld."""
    return record.levelno >= logging.WARNING or is_ours(record.name) or patient_identifiers_permitted()


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    logging.getLogger(__name__).error("uncaught exception", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    logging.getLogger(__name__).error(
        "uncaught exception",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
        extra={FIELDS: {"thread": args.thread.name if args.thread else None}},
    )


def _log_unraisable(args: "sys.UnraisableHookArgs") -> None:
    # Neither its text nor its object is looked at: a repr can quote a dataset, or fail.
    error = args.exc_value
    logging.getLogger(__name__).error(
        "exception ignored by Python", exc_info=(args.exc_type, error, args.exc_traceback) if error else None
    )
