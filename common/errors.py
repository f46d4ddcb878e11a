"""The exceptions of Stowgate, as a tree.

    StowgateError                  its text is safe for a log: no patient name, ID or other identifying value
    ├── ConfigError                pipeline.ini or the environment, with every problem found
    ├── SpoolError                 the spool directory cannot be used
    ├── LedgerError                the ledger cannot be read or written now
    │   ├── LedgerFlushError       what was committed may be lost in a power cut
    │   ├── LedgerRowError         the ledger refuses this row; others can be written
    │   └── LedgerVersionError     the ledger was written by a newer Stowgate
    └── InstanceError              a file or dataset is no storable instance; carries its cause
        ├── NotDicomError
        ├── TruncatedError
        ├── UnreadableError
        └── NotStorableError

An error that is about one instance never derives from one that is about the process.
"""


class StowgateError(Exception):
    """Base of all errors that Stowgate raises on purpose."""


class ConfigError(StowgateError):
    """The configuration is broken.

    Attributes:
        problems: one line each, naming section, key, what was expected and what was found.
    """

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class SpoolError(StowgateError):
    """The spool directory cannot be used."""


class LedgerError(StowgateError):
    """The ledger cannot be read or written now."""


class LedgerFlushError(LedgerError):
    """It is committed, but the log could not be flushed: a power cut may take it."""


class LedgerRowError(LedgerError):
    """The ledger refuses this very row; others can be written."""


class LedgerVersionError(LedgerError):
    """The ledger was written by a newer Stowgate."""


class InstanceError(StowgateError):
    """A file or dataset is no storable instance."""

    cause = "unreadable"


class NotDicomError(InstanceError):
    """No DICOM file: no Part 10 preamble and prefix (PS3.10 7.1)."""

    cause = "not-dicom"


class TruncatedError(InstanceError):
    """The file ends inside a data element."""

    cause = "truncated"


class UnreadableError(InstanceError):
    """A Part 10 file whose data elements cannot be parsed."""

    cause = "unreadable"


class NotStorableError(InstanceError):
    """A DICOM file that is no storable instance: a DICOMDIR, or no SOP Class or Instance UID."""

    cause = "not-storable"
