"""Whether the archive really has an instance: what is asked before a file is deleted, and what the answer means.

An answer to a Store request may say less than it seems to: some archives say "stored" or "there already" whatever is
there under the UID, others refuse a duplicate without saying that it is one. The setting `verify` says what to do about
it. Pure: the asking is passed in, and nothing is remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from common.config import Verify
from common.records import Cause
from uploader.verdict import PROCESSING_FAILURE, SETUP_STATUSES, Answer, Kind, Trouble, Verdict, judge


class Question(Enum):
    """What is asked of the archive."""

    SEARCH = "search"
    """QIDO-RS (PS3.18 10.6): is an instance of this UID there?"""
    RETRIEVE = "retrieve"
    """WADO-RS (PS3.18 10.4): what is there under this UID, compared with the file?"""


class Finding(Enum):
    """What the archive turns out to have."""

    THERE = "there"
    """An instance of that UID, whatever is in it."""
    SAME = "same"
    """The very dataset."""
    DIFFERENT = "different"
    """Another dataset under that UID."""
    MISSING = "missing"
    """No instance of that UID."""
    UNCLEAR = "unclear"
    """It cannot be told, now or later."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, with a reason that is safe for a log."""

    finding: Finding
    detail: str


def question(verdict: Verdict, http_status: int | None, verify: Verify) -> Question | None:
    """What is to be asked before a verdict is carried out; None if nothing is.

    Args:
        verdict: made of the answer to the Store request.
        http_status: of that answer.
        verify: the setting.
    """
    sent = verdict.kind is Kind.SENT
    # Google answers 409 with 0110 to another instance of that UID, as to an invalid one.
    unspecific = http_status == 409 and verdict.failure_reason == PROCESSING_FAILURE
    doubtful = verdict.cause in {Cause.DUPLICATE, Cause.CONFLICT} or unspecific
    if verify is Verify.QUERY and sent:
        return Question.SEARCH
    if verify is Verify.DUPLICATES and doubtful:
        return Question.RETRIEVE
    if verify is Verify.RETRIEVE and (sent or doubtful or verdict.cause is Cause.UNCONFIRMED):
        return Question.RETRIEVE
    return None


def found_or_trouble(asked: Question, answer: Answer) -> Found | Trouble:
    """What an answer without a finding means: that nothing is there, or that it cannot be told now.

    An answer that is wrong may be the archive's for every instance, or for this one: it is suspect, as a 5xx is.
    """
    status = answer.status
    if status == 204 or (asked is Question.RETRIEVE and status in {404, 410}):
        return Found(Finding.MISSING, f"HTTP {status} to the {asked.value}")
    judgement = judge(answer, [""])
    if not isinstance(judgement, Trouble) or status == 406:
        return Trouble(f"{answer.detail}, to the {asked.value} of what was stored", status, suspect=True)
    if status in SETUP_STATUSES:
        advice = "check verify in [destination], and the rights of the account there"
        return replace(judgement, detail=f"HTTP {status} to the {asked.value} of what was stored: {advice}")
    return replace(judgement, detail=f"{judgement.detail}, to the {asked.value} of what was stored")


def weigh(verdict: Verdict, found: Found) -> Verdict:
    """The verdict in the light of what the archive has.

    A file is sent only if the answer or this proof names its instance, and never if another one is there instead.
    """
    detail = f"{verdict.detail}; {found.detail}"
    sent = verdict.kind is Kind.SENT
    if found.finding is Finding.SAME:
        cause = verdict.cause if sent else Cause.NONE if verdict.cause is Cause.UNCONFIRMED else Cause.DUPLICATE
        return Verdict(Kind.SENT, cause, detail, verdict.failure_reason)
    if found.finding is Finding.DIFFERENT:
        return Verdict(Kind.PERMANENT, Cause.CONFLICT, detail, verdict.failure_reason)
    if found.finding is Finding.MISSING and sent:
        return Verdict(Kind.TEMPORARY, Cause.UNCONFIRMED, detail, verdict.failure_reason)
    if found.finding is Finding.MISSING and verdict.cause is Cause.CONFLICT:
        return Verdict(Kind.PERMANENT, Cause.REFUSED, detail, verdict.failure_reason)
    if found.finding is Finding.UNCLEAR and sent:
        return Verdict(Kind.PERMANENT, Cause.UNCONFIRMED, detail, verdict.failure_reason)
    return replace(verdict, detail=detail)


def verified(
    verdict: Verdict, http_status: int | None, verify: Verify, ask: Callable[[Question], Found | Answer]
) -> Verdict | Trouble:
    """The verdict as it stands after the archive was asked, where the setting wants that.

    Args:
        verdict: made of the answer to the Store request.
        http_status: of that answer.
        verify: the setting.
        ask: asks about the instance; gives the answer if that holds no finding.

    Returns:
        The verdict to carry out; or a trouble of the destination: then nothing is known, and nothing may be done.
    """
    wanted = question(verdict, http_status, verify)
    if wanted is None:
        return verdict
    asked = ask(wanted)
    outcome = asked if isinstance(asked, Found) else found_or_trouble(wanted, asked)
    return outcome if isinstance(outcome, Trouble) else weigh(verdict, outcome)
