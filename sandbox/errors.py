"""The exceptions of the sandbox, as a tree.

    StowgateError
    ├── RefusedError       a request is refused whole; carries the HTTP status
    │   └── FramingError   the multipart body is not what RFC 2046 and PS3.18 8.6 ask for: always 400
    ├── Part10Error        one part is no storable instance; carries its FailureReason
    └── RuleError          a misbehaviour rule says something that no rule can say

Their texts say what was expected and what was found. They go to the client and to standard output, so they
never quote bytes of a body: those may be a patient's.
"""

from common.errors import StowgateError


class RefusedError(StowgateError):
    """A request is refused whole, before anything of it is stored.

    Attributes:
        status: the HTTP status code of the answer.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class FramingError(RefusedError):
    """The multipart body is malformed: 400 (PS3.18 Table 10.5.3-1)."""

    def __init__(self, text: str) -> None:
        super().__init__(400, text)


class Part10Error(StowgateError):
    """One part of a request is no storable instance.

    Attributes:
        failure_reason: value for FailureReason (0008,1197), PS3.18 Table I.2-2.
    """

    def __init__(self, failure_reason: int, text: str) -> None:
        super().__init__(text)
        self.failure_reason = failure_reason


class RuleError(StowgateError):
    """A misbehaviour rule cannot be understood, or contradicts itself."""
