"""The verdict table of DESIGN section 5, row by row and then over every status there is."""

import dataclasses
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.records import Cause
from uploader.verdict import Answer, Failure, Judgement, Kind, Split, StoreResponse, Trouble, Verdict, judge

OURS = "1.2.3"
OTHER = "1.2.4"
STRANGER = "9.9.9"
STATUSES = range(100, 600)
SETUP = {401, 402, 403, 404, 405, 406, 407, *range(300, 400)}
BUSY = {408, 424, 425, 429, *range(500, 600)}
REFUSALS = {400, 409, 413, 415, 422}


def response(
    stored: dict[str, int | None] | None = None,
    failed: dict[str, int | None] | None = None,
    unnamed: tuple[int | None, ...] = (),
) -> StoreResponse:
    return StoreResponse(stored=stored or {}, failed=failed or {}, unnamed=unnamed)


@dataclass(frozen=True)
class Case:
    """One row: an answer to a request with our instance alone, and what becomes of it."""

    name: str
    status: int
    response: StoreResponse | None
    kind: Kind
    cause: Cause = Cause.NONE
    failure_reason: int | None = None
    detail: tuple[str, ...] = field(default=())


CASES = [
    Case("200 names us as stored", 200, response({OURS: None}), Kind.SENT),
    Case("202 names us as stored", 202, response({OURS: None}), Kind.SENT),
    Case("stored with a warning", 200, response({OURS: 0xB000}), Kind.SENT, Cause.WARNING, detail=("B000",)),
    Case("202 stored with a warning", 202, response({OURS: 0xB007}), Kind.SENT, Cause.WARNING, detail=("B007",)),
    Case("200 failed out of resources", 200, response(failed={OURS: 0xA700}), Kind.TEMPORARY, Cause.GAVE_UP, 0xA700),
    Case("202 processing failure", 202, response(failed={OURS: 0x0110}), Kind.TEMPORARY, Cause.GAVE_UP, 0x0110),
    Case("409 out of resources", 409, response(failed={OURS: 0xA7FF}), Kind.TEMPORARY, Cause.GAVE_UP, 0xA7FF),
    Case("409 duplicate", 409, response(failed={OURS: 0x0111}), Kind.SENT, Cause.DUPLICATE, 0x0111, ("0111",)),
    Case("202 duplicate", 202, response(failed={OURS: 0x0111}), Kind.SENT, Cause.DUPLICATE, 0x0111),
    Case("Azure's duplicate", 409, response(failed={OURS: 45070}), Kind.SENT, Cause.DUPLICATE, 45070),
    Case("Azure, being created", 409, response(failed={OURS: 45071}), Kind.TEMPORARY, Cause.GAVE_UP, 45071),
    Case("does not match SOP Class", 409, response(failed={OURS: 0xA900}), Kind.PERMANENT, Cause.REFUSED, 0xA900),
    Case("cannot understand", 200, response(failed={OURS: 0xC000}), Kind.PERMANENT, Cause.REFUSED, 0xC000),
    Case("SOP Class not supported", 202, response(failed={OURS: 0x0122}), Kind.PERMANENT, Cause.REFUSED, 0x0122),
    Case("not authorised", 202, response(failed={OURS: 0x0124}), Kind.PERMANENT, Cause.REFUSED, 0x0124),
    Case("transfer syntax refused", 409, response(failed={OURS: 0xC122}), Kind.PERMANENT, Cause.REFUSED, 0xC122),
    Case("Azure's validation", 409, response(failed={OURS: 43264}), Kind.PERMANENT, Cause.REFUSED, 43264),
    Case("400 with a reason", 400, response(failed={OURS: 0xC000}), Kind.PERMANENT, Cause.REFUSED, 0xC000),
    Case("failed without a reason", 409, response(failed={OURS: None}), Kind.TEMPORARY, Cause.GAVE_UP),
    Case("200 without a body", 200, None, Kind.TEMPORARY, Cause.UNCONFIRMED),
    Case("202 without a body", 202, None, Kind.TEMPORARY, Cause.UNCONFIRMED),
    Case("200 that names nobody", 200, response(), Kind.TEMPORARY, Cause.UNCONFIRMED),
    Case("200 that names another", 200, response({STRANGER: None}), Kind.TEMPORARY, Cause.UNCONFIRMED),
    Case("200, another failed", 200, response(failed={STRANGER: 0xA900}), Kind.TEMPORARY, Cause.UNCONFIRMED),
    Case("in both sequences", 202, response({OURS: None}, {OURS: 0xA900}), Kind.PERMANENT, Cause.REFUSED, 0xA900),
    Case("in both, full disk", 200, response({OURS: None}, {OURS: 0xA700}), Kind.TEMPORARY, Cause.GAVE_UP, 0xA700),
    Case("409 in both", 409, response({OURS: None}, {OURS: 0xA900}), Kind.PERMANENT, Cause.REFUSED, 0xA900),
    Case("200, unnamed failure", 200, response(unnamed=(0xC000,)), Kind.PERMANENT, Cause.REFUSED, 0xC000),
    Case("409, unnamed failure", 409, response(unnamed=(0xA700,)), Kind.TEMPORARY, Cause.GAVE_UP, 0xA700),
    Case("200, unnamed, no reason", 200, response(unnamed=(None,)), Kind.TEMPORARY, Cause.GAVE_UP),
    Case("200, unnamed duplicate", 200, response(unnamed=(0x0111,)), Kind.TEMPORARY, Cause.UNCONFIRMED, 0x0111),
    Case("409, unnamed duplicate", 409, response(unnamed=(0x0111,)), Kind.PERMANENT, Cause.CONFLICT, 0x0111),
    Case("409, unnamed 45070", 409, response(unnamed=(45070,)), Kind.PERMANENT, Cause.CONFLICT, 45070),
    Case("named beats unnamed", 202, response({OURS: None}, unnamed=(0xC000,)), Kind.SENT),
    Case("400", 400, None, Kind.PERMANENT, Cause.REFUSED),
    Case("409 without a word", 409, None, Kind.PERMANENT, Cause.CONFLICT),
    Case("409 that calls us stored", 409, response({OURS: None}), Kind.PERMANENT, Cause.CONFLICT),
    Case("413", 413, None, Kind.PERMANENT, Cause.TOO_LARGE),
    Case("415", 415, None, Kind.PERMANENT, Cause.REFUSED),
    Case("422", 422, None, Kind.PERMANENT, Cause.REFUSED),
    Case("201, even with our UID", 201, response({OURS: None}), Kind.TEMPORARY, Cause.GAVE_UP),
    Case("204", 204, None, Kind.TEMPORARY, Cause.GAVE_UP),
    Case("418", 418, None, Kind.TEMPORARY, Cause.GAVE_UP),
]


def alone(answer: Answer) -> Judgement:
    return judge(answer, [OURS])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_answer_to_one_instance(case: Case) -> None:
    """Each row of the table gives its verdict, its cause and the FailureReason that the archive gave."""
    judgement = alone(Answer(status=case.status, response=case.response))
    assert isinstance(judgement, dict)
    verdict = judgement[OURS]
    assert (verdict.kind, verdict.cause, verdict.failure_reason) == (case.kind, case.cause, case.failure_reason)
    assert str(case.status) in verdict.detail
    for part in case.detail:
        assert part in verdict.detail


@pytest.mark.parametrize("reason", [0x0111, 45070])
@pytest.mark.parametrize("status", [200, 202, *sorted(REFUSALS)])
def test_a_duplicate_that_is_not_named_is_no_proof(status: int, reason: int) -> None:
    """That it is there already, without our UID beside that, never lets a file be deleted."""
    judgement = alone(Answer(status=status, response=response(unnamed=(reason,))))
    assert isinstance(judgement, dict)
    assert judgement[OURS].kind is not Kind.SENT


def expected_by_reason(reason: int) -> tuple[Kind, Cause]:
    """The classes of DESIGN section 5, written as ranges."""
    if reason in (0x0111, 45070):
        return Kind.SENT, Cause.DUPLICATE
    if reason in (0x0110, 45071) or 0xA700 <= reason <= 0xA7FF:
        return Kind.TEMPORARY, Cause.GAVE_UP
    return Kind.PERMANENT, Cause.REFUSED


@pytest.mark.parametrize("status", [200, 202, 409])
def test_every_failure_reason_has_its_class(status: int) -> None:
    """All 65536 values of FailureReason (VR US) fall into sent, temporary or permanent by their range."""
    for reason in range(0x10000):
        judgement = alone(Answer(status=status, response=response(failed={OURS: reason})))
        assert isinstance(judgement, dict)
        verdict = judgement[OURS]
        assert (verdict.kind, verdict.cause) == expected_by_reason(reason), f"{reason:04X}"
        assert verdict.failure_reason == reason
        assert f"{reason:04X}" in verdict.detail


def expected_by_status(status: int, count: int) -> Judgement | tuple[Kind, Cause]:
    """The table for an answer without a body; a pair stands for that verdict on each instance."""
    if status in SETUP or status in BUSY:
        return Trouble("", status, setup=status in SETUP, suspect=status >= 500)
    if status in {200, 202}:
        return Kind.TEMPORARY, Cause.UNCONFIRMED
    if status in REFUSALS:
        cause = {409: Cause.CONFLICT, 413: Cause.TOO_LARGE}.get(status, Cause.REFUSED)
        return Split() if count > 1 else (Kind.PERMANENT, cause)
    return Kind.TEMPORARY, Cause.GAVE_UP


@pytest.mark.parametrize("count", [1, 2, 50])
def test_every_status_has_its_class(count: int) -> None:
    """Without a body, each HTTP status is about the destination, the batch or each instance, as the table says."""
    uids = [f"1.{number}" for number in range(count)]
    for status in STATUSES:
        judgement = judge(Answer(status=status), uids)
        expected = expected_by_status(status, count)
        if isinstance(judgement, Trouble):
            assert str(status) in judgement.detail
            assert ("[destination]" in judgement.detail) == (status in SETUP)
            judgement = dataclasses.replace(judgement, detail="")
        if isinstance(judgement, dict):
            assert list(judgement) == uids
            assert {(verdict.kind, verdict.cause) for verdict in judgement.values()} == {expected}, status
        else:
            assert judgement == expected, status


REASONS = (
    st.none() | st.sampled_from([0, 0x0110, 0x0111, 0xA700, 0xA900, 0xB000, 0xC000, 45070]) | st.integers(0, 65535)
)
UIDS = st.sampled_from([OURS, OTHER, STRANGER])
RESPONSES = st.none() | st.builds(
    StoreResponse,
    stored=st.dictionaries(UIDS, REASONS),
    failed=st.dictionaries(UIDS, REASONS),
    unnamed=st.lists(REASONS, max_size=3).map(tuple),
)
BATCHES = st.sampled_from([[OURS], [OURS, OTHER]])


@given(st.sampled_from(STATUSES), RESPONSES, BATCHES)
def test_a_trouble_of_the_destination_is_about_no_instance(
    status: int, answer: StoreResponse | None, uids: list[str]
) -> None:
    """Whatever the body says, a setup or busy status judges no instance: no attempt is spent, none quarantined."""
    judgement = judge(Answer(status=status, response=answer), uids)
    assert isinstance(judgement, Trouble) == (status in SETUP or status in BUSY)


@given(st.sampled_from(STATUSES), RESPONSES, BATCHES)
def test_nothing_is_sent_without_its_uid_in_the_answer(
    status: int, answer: StoreResponse | None, uids: list[str]
) -> None:
    """SENT takes a 200 or 202 with our UID as stored, or our UID as failed because it is there already."""
    judgement = judge(Answer(status=status, response=answer), uids)
    if not isinstance(judgement, dict):
        return
    assert judgement
    assert set(judgement) <= set(uids)
    for uid, verdict in judgement.items():
        if verdict.kind is Kind.SENT:
            assert answer is not None
            duplicate = answer.failed.get(uid) in (0x0111, 45070)
            stored = status in {200, 202} and uid in answer.stored and uid not in answer.failed
            assert stored or duplicate


@given(st.sampled_from([200, 202]), RESPONSES)
def test_a_success_judges_every_instance(status: int, answer: StoreResponse | None) -> None:
    """A 200 or 202 gives each instance of the batch a verdict of its own: nobody is forgotten or sent twice for it."""
    judgement = judge(Answer(status=status, response=answer), [OURS, OTHER])
    assert isinstance(judgement, dict)
    assert set(judgement) == {OURS, OTHER}


def test_in_a_batch_each_instance_has_its_own_verdict() -> None:
    """202 with one stored, one failed and one not named gives three verdicts."""
    judgement = judge(Answer(status=202, response=response({OURS: None}, {OTHER: 0xC000})), [OURS, OTHER, "1.2.5"])
    assert judgement == {
        OURS: Verdict(Kind.SENT, Cause.NONE, "HTTP 202"),
        OTHER: Verdict(Kind.PERMANENT, Cause.REFUSED, "HTTP 202, FailureReason C000", 0xC000),
        "1.2.5": Verdict(Kind.TEMPORARY, Cause.UNCONFIRMED, "HTTP 202 that does not name the instance"),
    }


def test_an_unnamed_failure_in_a_batch_is_nobodys() -> None:
    """A failure without an identity blames nobody in a batch: those that are not named are unconfirmed."""
    judgement = judge(Answer(status=202, response=response({OURS: None}, unnamed=(0xC000,))), [OURS, OTHER])
    assert isinstance(judgement, dict)
    assert judgement[OURS].kind is Kind.SENT
    assert (judgement[OTHER].kind, judgement[OTHER].cause) == (Kind.TEMPORARY, Cause.UNCONFIRMED)


@pytest.mark.parametrize("status", sorted(REFUSALS))
def test_a_refusal_that_names_its_culprit_judges_only_it(status: int) -> None:
    """A refused batch with one of ours as failed judges that one; the others, called stored or not, go again."""
    judgement = judge(Answer(status=status, response=response({OURS: None}, {OTHER: 0xC000})), [OURS, OTHER, "1.2.5"])
    assert judgement == {OTHER: Verdict(Kind.PERMANENT, Cause.REFUSED, f"HTTP {status}, FailureReason C000", 0xC000)}


@pytest.mark.parametrize("status", sorted(REFUSALS))
@pytest.mark.parametrize(
    "said",
    [None, response(), response({OURS: None}), response(failed={STRANGER: 0xC000}), response(unnamed=(0xC000,))],
    ids=["no response", "empty", "one stored", "a stranger failed", "an unnamed failure"],
)
def test_a_refusal_without_a_word_about_ours_is_split(status: int, said: StoreResponse | None) -> None:
    """A refused batch is sent in halves when none of its instances is named as failed."""
    assert judge(Answer(status=status, response=said), [OURS, OTHER]) == Split()


@pytest.mark.parametrize(
    ("failure", "setup", "suspect"),
    [
        (Failure.CONNECT, False, False),
        (Failure.CERTIFICATE, True, False),
        (Failure.PROXY, False, False),
        (Failure.SETUP, True, False),
        (Failure.BROKEN, False, True),
        (Failure.TIMEOUT, False, True),
        (Failure.TOKEN, False, False),
    ],
)
def test_no_answer_is_the_destinations_trouble(failure: Failure, setup: bool, suspect: bool) -> None:  # noqa: FBT001
    """No failure to get an answer is about an instance; a broken connection or a timeout may come from one."""
    judgement = judge(Answer(failure=failure, detail="what happened"), [OURS])
    assert judgement == Trouble("what happened", setup=setup, suspect=suspect)


def test_every_failure_is_in_the_table_above() -> None:
    """A new member of Failure makes this fail until it has its row."""
    assert len(Failure) == 7


def test_a_token_endpoint_may_say_when_to_come_again() -> None:
    """What stands in the place of an answer can ask to wait as well."""
    judgement = judge(Answer(failure=Failure.TOKEN, retry_after=7.0, detail="busy"), [OURS])
    assert judgement == Trouble("busy", retry_after=7.0)


@pytest.mark.parametrize("status", [401, 429, 503])
def test_retry_after_is_passed_on(status: int) -> None:
    """What the destination asks to wait reaches whoever pauses."""
    judgement = judge(Answer(status=status, retry_after=7.0), [OURS])
    assert isinstance(judgement, Trouble)
    assert judgement.retry_after == 7.0
