import errno
import inspect

import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

import common.errors
from common.errors import InstanceError, LedgerError, StowgateError
from receiver import status
from receiver.status import Refusal, refusal

ERRORS = [
    error
    for _, error in inspect.getmembers(common.errors, inspect.isclass)
    if issubclass(error, StowgateError) and error is not common.errors.ConfigError
]


@pytest.mark.parametrize(
    "number",
    [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.ENOENT, errno.EMFILE],
    ids=errno.errorcode.get,
)
def test_what_the_system_refuses_is_a700(number: int) -> None:
    """Every failure of the disk is out of resources: the sender keeps the instance and tries again."""
    answer = refusal(OSError(number, "text", "/spool/staging/name"))
    assert answer.status == 0xA700
    assert answer.comment
    assert "/spool" not in answer.comment + answer.reason


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_of_ours_has_its_status(error: type[StowgateError]) -> None:
    """An instance's error is 0xC000; every other is not the instance's fault, 0xA700."""
    assert refusal(error("text")).status == (0xC000 if issubclass(error, InstanceError) else 0xA700)


def test_a_ledger_that_cannot_be_written_is_a700() -> None:
    """Without a row nothing is acknowledged."""
    assert refusal(LedgerError("locked")).status == 0xA700


@pytest.mark.parametrize("error", [ValueError("Doe^John"), RecursionError(), MemoryError(), KeyError("x")], ids=repr)
def test_the_unforeseen_is_a700_and_tells_nothing(error: Exception) -> None:
    """It may be our own fault, so the sender may try again; its text may quote the dataset and is left out."""
    answer = refusal(error)
    assert answer.status == 0xA700
    assert "Doe" not in answer.comment + answer.reason


def test_a_refusal_is_its_own_answer() -> None:
    """What was decided closer to the cause stays."""
    decided = status.no_room()
    assert refusal(decided) is decided


MADE = [
    status.malformed_uid("Affected SOP Instance UID"),
    status.not_negotiated(),
    status.no_dataset(),
    status.no_room(),
    status.mismatch("SOP Instance UID", 0x00080018),
    refusal(InstanceError("x" * 500)),
    refusal(LedgerError("x" * 500)),
    refusal(OSError(errno.EIO, "x" * 500)),
    refusal(OSError(errno.ENOSPC, "x" * 500)),
    refusal(ValueError("x" * 500)),
]


@pytest.mark.parametrize("answer", MADE, ids=lambda answer: f"{answer.status:04X}")
def test_an_answer_is_one_of_the_storage_service(answer: Refusal) -> None:
    """A failure status of PS3.4 B.2.3 or PS3.7 9.1.1.1.9, with an Error Comment that fits LO if it has one."""
    assert STORAGE_SERVICE_CLASS_STATUS[answer.status][0] == "Failure"
    assert len(answer.comment) <= 64
    assert "\\" not in answer.comment
    assert bool(answer.comment) == (answer.status != 0x0117)


def test_only_a_mismatch_names_an_element() -> None:
    """Offending Element goes with 0xA900."""
    assert [answer.status for answer in MADE if answer.offending_element is not None] == [0xA900]
