"""What the outcome of a request means. Pure: no I/O, no clock, nothing remembered.

An outcome is permanent or temporary, and it is about an instance or about the destination. The two axes are
kept apart because the wrong answer on either loses data or stops the line: an outage blamed on instances would
quarantine good files, an instance blamed on the destination would stop everything behind it.

The table is that of docs/design.md, "Verdicts". Statuses are those of PS3.18 10.5.3 and RFC 9110, FailureReason
and WarningReason (0008,1197) and (0008,1196) those of PS3.18 Annex I.2 and PS3.7 Annex C.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from common.records import Cause

DUPLICATE_REASONS = frozenset((0x0111, 0xB00E))  # Duplicate SOP Instance (PS3.7 C.5.7); Azure's 45070
BEING_CREATED = 0xB00F  # Azure's 45071: another request stores it, or failed to and is not cleaned up yet
PROCESSING_FAILURE = 0x0110  # PS3.7 C.5.11
OUT_OF_RESOURCES = range(0xA700, 0xA800)  # PS3.4 Table B.2-1

# Refusals of a request as a whole. Without a word about each instance they are bisected.
REFUSED_STATUSES = frozenset((400, 409, 413, 415, 422))
# Something about the destination or our way to it that only a person can put right. 402 is how AWS says that a quota
# is used up; 406 is about the Accept header, which is the same in every request.
SETUP_STATUSES = frozenset((401, 402, 403, 404, 405, 406, 407))
BUSY_STATUSES = frozenset((408, 424, 425, 429))  # 424: Azure cannot reach its own storage or key vault


class Failure(Enum):
    """Why a request got no answer."""

    CONNECT = "cannot connect"
    CERTIFICATE = "cannot agree on TLS"
    PROXY = "the proxy does not let us through"
    SETUP = "the request cannot be made as configured"
    BROKEN = "the connection broke"
    TIMEOUT = "no answer in time"
    TOKEN = "no token to show the destination"  # noqa: S105 -- words


@dataclass(frozen=True, slots=True)
class StoreResponse:
    """A Store Instances Response (PS3.18 10.5.3.2), reduced to what decides.

    Attributes:
        stored: SOP Instance UIDs of ReferencedSOPSequence (0008,1199), each with its WarningReason or None.
        failed: those of FailedSOPSequence (0008,1198), each with its FailureReason or None.
        unnamed: FailureReasons of OtherFailuresSequence (0008,119A), which name no instance.
        entries: the items of FailedSOPSequence as compact DICOM JSON, by UID, not redacted: never for a log.
    """

    stored: Mapping[str, int | None] = field(default_factory=dict)
    failed: Mapping[str, int | None] = field(default_factory=dict)
    unnamed: tuple[int | None, ...] = ()
    entries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to: an HTTP status with what its body said, or the failure to get one.

    Attributes:
        status: HTTP status; None if there was no answer.
        response: None if the body is no Store Instances Response.
        failure: why there was no answer; None if there was one.
        retry_after: seconds that the destination, or the token endpoint, asks to wait; None if it does not, or says it
            unreadably.
        excerpt: the beginning of the body, longer than what is ever shown of it, so that it can be cut after it is
            redacted; not redacted: never for a log.
        detail: in words, safe for a log.
    """

    status: int | None = None
    response: StoreResponse | None = None
    failure: Failure | None = None
    retry_after: float | None = None
    excerpt: str = ""
    detail: str = ""


class Kind(Enum):
    """What becomes of an instance."""

    SENT = "sent"
    """The destination has it."""
    TEMPORARY = "temporary"
    """Try again, up to the limit of attempts."""
    PERMANENT = "permanent"
    """Quarantine."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one instance.

    Attributes:
        kind: what becomes of it.
        cause: for SENT what was special about it, otherwise why; for TEMPORARY the cause if the limit is reached.
        detail: in words, safe for a log.
        failure_reason: (0008,1197), if the destination gave one.
    """

    kind: Kind
    cause: Cause
    detail: str
    failure_reason: int | None = None


@dataclass(frozen=True, slots=True)
class Trouble:
    """The verdict on the destination: pause, spend no attempts, keep everything.

    Attributes:
        detail: in words, safe for a log.
        http_status: of the answer, None if there was none.
        retry_after: seconds that the destination asked for.
        setup: only a person can put it right.
        suspect: it can come from one instance in the request: try another one before believing in an outage.
    """

    detail: str
    http_status: int | None = None
    retry_after: float | None = None
    setup: bool = False
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Split:
    """The batch was refused without a word about each instance: send it in halves."""


Judgement = dict[str, Verdict] | Trouble | Split

_SETUP_ADVICE = {
    401: "the destination does not accept our credentials: check auth and its keys in [destination]",
    402: "a quota of the account in [destination] is used up: raise it there",
    403: "the destination does not allow us to store: check the rights of the account in [destination]",
    404: "the destination does not know this path: check url in [destination]",
    405: "the destination does not take a POST at this path: check url in [destination]",
    406: "the destination answers in neither DICOM JSON nor XML at this path: check url in [destination]",
    407: "the proxy does not accept our credentials: check proxy in [destination]",
}


def judge(answer: Answer, uids: Sequence[str]) -> Judgement:
    """Decide what the outcome of one request means.

    Args:
        answer: what the request came to.
        uids: SOP Instance UIDs of the instances in the request, each once, at least one.

    Returns:
        A verdict for each UID, or for some of them, at least one: then the others are to be sent again at once,
        uncharged, since an archive may refuse a whole request for one instance that it names (Orthanc does). Or a
        trouble of the destination; or that the batch is to be split.
    """
    status = answer.status
    if status is None:
        return _no_answer(answer)
    if status in SETUP_STATUSES or 300 <= status < 400:
        advice = _SETUP_ADVICE.get(
            status, "the destination redirects, which is not followed: check url in [destination]"
        )
        return Trouble(f"HTTP {status}: {advice}", status, answer.retry_after, setup=True)
    if status in BUSY_STATUSES or status >= 500:
        return Trouble(f"HTTP {status}", status, answer.retry_after, suspect=status >= 500)
    if status in {200, 202}:
        return {uid: _named(answer, uid, alone=len(uids) == 1) for uid in uids}
    if status in REFUSED_STATUSES:
        return _refused(answer, status, uids)
    return {uid: Verdict(Kind.TEMPORARY, Cause.GAVE_UP, f"HTTP {status}") for uid in uids}


def _no_answer(answer: Answer) -> Trouble:
    failure = answer.failure or Failure.BROKEN
    return Trouble(
        answer.detail or failure.value,
        retry_after=answer.retry_after,
        setup=failure in {Failure.CERTIFICATE, Failure.SETUP},
        suspect=failure in {Failure.BROKEN, Failure.TIMEOUT},
    )


def _named(answer: Answer, uid: str, *, alone: bool) -> Verdict:
    """The verdict on one instance of a 200 or 202."""
    response = answer.response
    if response is None:
        return _unconfirmed(answer, "without a Store Instances Response")
    if uid in response.failed:
        return _failed(response.failed[uid], answer.status)
    if uid in response.stored:
        warning = response.stored[uid]
        if warning is None:
            return Verdict(Kind.SENT, Cause.NONE, f"HTTP {answer.status}")
        return Verdict(Kind.SENT, Cause.WARNING, f"HTTP {answer.status}, WarningReason {warning:04X}")
    reasons = response.unnamed if alone else ()
    # Only an answer that names the instance lets its file be deleted: "there already" alone is no proof.
    if reasons and reasons[0] not in DUPLICATE_REASONS:
        return _failed(reasons[0], answer.status)
    return _unconfirmed(answer, "that does not name the instance", next(iter(reasons), None))


def _unconfirmed(answer: Answer, how: str, reason: int | None = None) -> Verdict:
    return Verdict(Kind.TEMPORARY, Cause.UNCONFIRMED, f"HTTP {answer.status} {how}", reason)


def _failed(reason: int | None, status: int | None) -> Verdict:
    """The verdict by FailureReason (0008,1197)."""
    if reason is None:
        return Verdict(Kind.TEMPORARY, Cause.GAVE_UP, f"HTTP {status}, failed without a FailureReason")
    detail = f"HTTP {status}, FailureReason {reason:04X}"
    if reason in DUPLICATE_REASONS:
        return Verdict(Kind.SENT, Cause.DUPLICATE, detail, reason)
    if reason in OUT_OF_RESOURCES or reason in {PROCESSING_FAILURE, BEING_CREATED}:
        return Verdict(Kind.TEMPORARY, Cause.GAVE_UP, detail, reason)
    return Verdict(Kind.PERMANENT, Cause.REFUSED, detail, reason)


def _refused(answer: Answer, status: int, uids: Sequence[str]) -> Judgement:
    response = answer.response
    if response is not None and any(uid in response.failed for uid in uids):
        # What such an answer calls stored is believed when a 200 or 202 says so: the others are sent again.
        return {uid: _failed(response.failed[uid], status) for uid in uids if uid in response.failed}
    if len(uids) > 1:
        return Split()
    reasons = response.unnamed if response is not None else ()
    if reasons and reasons[0] not in DUPLICATE_REASONS:
        return {uids[0]: _failed(reasons[0], status)}
    cause = {409: Cause.CONFLICT, 413: Cause.TOO_LARGE}.get(status, Cause.REFUSED)
    detail = f"HTTP {status} for this instance alone"
    return {uids[0]: Verdict(Kind.PERMANENT, cause, detail, next(iter(reasons), None))}
