"""What is asked before a file is deleted, and what the answer means."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from common.config import Verify
from common.records import Cause
from uploader.verdict import Answer, Failure, Kind, Trouble, Verdict
from uploader.verifying import Finding, Found, Question, question, verified

STORED = Verdict(Kind.SENT, Cause.NONE, "HTTP 200")
WARNED = Verdict(Kind.SENT, Cause.WARNING, "HTTP 202, WarningReason B000")
DUPLICATE = Verdict(Kind.SENT, Cause.DUPLICATE, "HTTP 409, FailureReason B00E", 0xB00E)
CONFLICT = Verdict(Kind.PERMANENT, Cause.CONFLICT, "HTTP 409 for this instance alone")
UNSPECIFIC = Verdict(Kind.TEMPORARY, Cause.GAVE_UP, "HTTP 409, FailureReason 0110", 0x0110)
UNCONFIRMED = Verdict(Kind.TEMPORARY, Cause.UNCONFIRMED, "HTTP 200 without a Store Instances Response")
REFUSED = Verdict(Kind.PERMANENT, Cause.REFUSED, "HTTP 409, FailureReason C000", 0xC000)
FULL = Verdict(Kind.TEMPORARY, Cause.GAVE_UP, "HTTP 409, FailureReason A700", 0xA700)
TOO_LARGE = Verdict(Kind.PERMANENT, Cause.TOO_LARGE, "HTTP 413 for this instance alone")
VERDICTS = {
    "stored": (STORED, 200),
    "stored with a warning": (WARNED, 202),
    "duplicate": (DUPLICATE, 409),
    "conflict": (CONFLICT, 409),
    "0110 with 409": (UNSPECIFIC, 409),
    "unconfirmed": (UNCONFIRMED, 200),
    "refused": (REFUSED, 409),
    "out of resources": (FULL, 409),
    "too large": (TOO_LARGE, 413),
    "0110 with 202": (UNSPECIFIC, 202),
}
SEARCH, RETRIEVE = Question.SEARCH, Question.RETRIEVE
ASKED: dict[Verify, dict[str, Question]] = {
    Verify.NO: {},
    Verify.QUERY: dict.fromkeys(("stored", "stored with a warning", "duplicate"), SEARCH),
    Verify.DUPLICATES: dict.fromkeys(("duplicate", "conflict", "0110 with 409"), RETRIEVE),
    Verify.RETRIEVE: dict.fromkeys(
        ("stored", "stored with a warning", "duplicate", "conflict", "0110 with 409", "unconfirmed"), RETRIEVE
    ),
}


@pytest.mark.parametrize("name", VERDICTS)
@pytest.mark.parametrize("verify", Verify)
def test_what_is_asked(verify: Verify, name: str) -> None:
    """Each value of the setting asks about the verdicts that its row names, and about no other."""
    verdict, status = VERDICTS[name]
    assert question(verdict, status, verify) is ASKED[verify].get(name)


@dataclass(frozen=True)
class Case:
    """A verdict, what is found, and what becomes of the file."""

    name: str
    verdict: Verdict
    status: int
    finding: Finding
    kind: Kind
    cause: Cause


SAME, DIFFERENT, MISSING, UNCLEAR, THERE = (
    Finding.SAME,
    Finding.DIFFERENT,
    Finding.MISSING,
    Finding.UNCLEAR,
    Finding.THERE,
)
SENT, TEMPORARY, PERMANENT = Kind.SENT, Kind.TEMPORARY, Kind.PERMANENT
CASES = [
    Case("stored and the same", STORED, 200, SAME, SENT, Cause.NONE),
    Case("a warning stays", WARNED, 202, SAME, SENT, Cause.WARNING),
    Case("a duplicate that is one", DUPLICATE, 409, SAME, SENT, Cause.DUPLICATE),
    Case("a conflict that is none", CONFLICT, 409, SAME, SENT, Cause.DUPLICATE),
    Case("0110 for a duplicate", UNSPECIFIC, 409, SAME, SENT, Cause.DUPLICATE),
    Case("unconfirmed, and it is there", UNCONFIRMED, 200, SAME, SENT, Cause.NONE),
    Case("stored, but another is there", STORED, 200, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("a warning, but another is there", WARNED, 202, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("a duplicate that is another", DUPLICATE, 409, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("a conflict that is one", CONFLICT, 409, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("0110 for another", UNSPECIFIC, 409, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("unconfirmed, and another is there", UNCONFIRMED, 200, DIFFERENT, PERMANENT, Cause.CONFLICT),
    Case("stored, and nothing is there", STORED, 200, MISSING, TEMPORARY, Cause.UNCONFIRMED),
    Case("a duplicate of nothing", DUPLICATE, 409, MISSING, TEMPORARY, Cause.UNCONFIRMED),
    Case("a conflict with nothing", CONFLICT, 409, MISSING, PERMANENT, Cause.REFUSED),
    Case("0110, and nothing is there", UNSPECIFIC, 409, MISSING, TEMPORARY, Cause.GAVE_UP),
    Case("unconfirmed, and nothing is there", UNCONFIRMED, 200, MISSING, TEMPORARY, Cause.UNCONFIRMED),
    Case("stored, but converted", STORED, 200, UNCLEAR, PERMANENT, Cause.UNCONFIRMED),
    Case("a duplicate, but converted", DUPLICATE, 409, UNCLEAR, PERMANENT, Cause.UNCONFIRMED),
    Case("a conflict with something converted", CONFLICT, 409, UNCLEAR, PERMANENT, Cause.CONFLICT),
    Case("0110, something converted", UNSPECIFIC, 409, UNCLEAR, TEMPORARY, Cause.GAVE_UP),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_becomes_of_it(case: Case) -> None:
    """Only proof of the same lets a file go that the archive did not name; nothing lets one go that is another."""
    found = Found(case.finding, "what was found")
    outcome = verified(case.verdict, case.status, Verify.RETRIEVE, lambda _question: found)
    assert isinstance(outcome, Verdict)
    assert (outcome.kind, outcome.cause) == (case.kind, case.cause)
    assert outcome.detail == f"{case.verdict.detail}; what was found"
    assert outcome.failure_reason == case.verdict.failure_reason


@pytest.mark.parametrize(
    ("finding", "kind", "cause"), [(THERE, SENT, Cause.NONE), (MISSING, TEMPORARY, Cause.UNCONFIRMED)]
)
def test_a_search_tells_whether_it_is_there(finding: Finding, kind: Kind, cause: Cause) -> None:
    """Found by a search is as the answer said; not found is unconfirmed."""
    outcome = verified(STORED, 200, Verify.QUERY, lambda _question: Found(finding, "what was found"))
    assert isinstance(outcome, Verdict)
    assert (outcome.kind, outcome.cause) == (kind, cause)


def test_no_finding_but_the_same_ever_makes_a_file_sent() -> None:
    """Over every verdict and finding: what was not sent before becomes so by SAME only."""
    for verdict, status in VERDICTS.values():
        for finding in Finding:
            outcome = verified(verdict, status, Verify.RETRIEVE, lambda _question, f=finding: Found(f, "x"))  # type: ignore[misc]
            assert isinstance(outcome, Verdict)
            if outcome.kind is SENT and verdict.kind is not SENT:
                assert finding is SAME
            if finding is DIFFERENT and question(verdict, status, Verify.RETRIEVE):
                assert outcome.kind is PERMANENT


@pytest.mark.parametrize("verify", [Verify.QUERY, Verify.RETRIEVE])
@pytest.mark.parametrize(
    ("answer", "setup", "suspect"),
    [
        (Answer(status=401), True, False),
        (Answer(status=402), True, False),
        (Answer(status=403), True, False),
        (Answer(status=405), True, False),
        (Answer(status=302), True, False),
        (Answer(status=429, retry_after=7.0), False, False),
        (Answer(status=424), False, False),
        (Answer(status=500), False, True),
        (Answer(status=503), False, True),
        (Answer(status=400, detail="HTTP 400"), False, True),
        (Answer(status=406, detail="HTTP 406"), False, True),
        (Answer(status=200, detail="HTTP 200, expected something else"), False, True),
        (Answer(failure=Failure.CONNECT, detail="cannot connect"), False, False),
        (Answer(failure=Failure.BROKEN, detail="the connection broke"), False, True),
        (Answer(failure=Failure.TIMEOUT, detail="no answer in time"), False, True),
        (Answer(failure=Failure.CERTIFICATE, detail="cannot agree on TLS"), True, False),
    ],
    ids=str,
)
def test_what_cannot_be_asked_now_is_the_destinations_trouble(
    verify: Verify,
    answer: Answer,
    setup: bool,  # noqa: FBT001
    suspect: bool,  # noqa: FBT001
) -> None:
    """An outage, a right that is missing or a wrong answer decides nothing: no verdict, no attempt, no deletion."""
    outcome = verified(STORED, 200, verify, lambda _question: answer)
    assert isinstance(outcome, Trouble)
    assert (outcome.setup, outcome.suspect) == (setup, suspect)
    assert outcome.retry_after == answer.retry_after
    assert outcome.http_status == answer.status
    assert ("retrieve" if verify is Verify.RETRIEVE else "search") in outcome.detail


@pytest.mark.parametrize("status", [404, 410, 204])
def test_a_retrieve_that_finds_nothing(status: int) -> None:
    """404, 410 and 204 to a retrieve say that the instance is not there."""
    outcome = verified(STORED, 200, Verify.RETRIEVE, lambda _question: Answer(status=status))
    assert isinstance(outcome, Verdict)
    assert (outcome.kind, outcome.cause) == (TEMPORARY, Cause.UNCONFIRMED)
    assert str(status) in outcome.detail


def test_a_search_that_finds_nothing() -> None:
    """204 to a search says that the instance is not there; 404 says that there is no search at this path."""
    outcome = verified(STORED, 200, Verify.QUERY, lambda _question: Answer(status=204))
    assert isinstance(outcome, Verdict)
    assert outcome.cause is Cause.UNCONFIRMED
    trouble = verified(STORED, 200, Verify.QUERY, lambda _question: Answer(status=404))
    assert isinstance(trouble, Trouble)
    assert trouble.setup
    assert "verify" in trouble.detail


def test_every_value_of_the_setting_is_explained() -> None:
    """docs/archives.md has a row for each value of `verify`, and names no other."""
    page = (Path(__file__).parents[3] / "docs" / "archives.md").read_text()
    table = page.partition("## `verify`")[2].partition("\n\n")[2].partition("\n\n")[0]
    rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert rows == [value.value for value in Verify]
