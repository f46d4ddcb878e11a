import pytest
from pydicom.uid import UID, AllTransferSyntaxes, UID_dictionary
from pynetdicom import AllStoragePresentationContexts

from receiver import contexts
from receiver.contexts import is_storage, preferred

EXPLICIT, IMPLICIT, BIG_ENDIAN = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
JPEG, J2K = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90"
CT = "1.2.840.10008.5.1.4.1.1.2"

# Storage SOP classes that pynetdicom has no public list of: non-patient objects, retired, DICOS and DICONDE ones,
# and two that lost their name.
OTHER_STORAGE = {
    *(f"1.2.840.10008.5.1.4.{tail}" for tail in ("34.1", "38.1", "39.1", "43.1", "44.1", "45.1")),
    *(
        f"1.2.840.10008.5.1.4.1.1.{tail}"
        for tail in ("3", "5", "6", "8", "9", "9.1", "10", "11", "12.3", "12.77", "40")
    ),
    *(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("77.1", "77.2", "88.1", "88.2", "88.3", "88.4", "129")),
    *(f"1.2.840.10008.5.1.4.1.1.{tail}" for tail in ("200.1", "200.3", "200.7", "201.1", "601.1", "601.2")),
    *(f"1.2.840.10008.5.1.4.1.1.501.{tail}" for tail in ("1", "2.1", "2.2", "3", "4", "5", "6")),
    *(f"1.2.840.10008.5.1.1.{tail}" for tail in ("27", "29", "30")),
}
STORAGE = {
    *(
        f"1.2.840.10008.5.1.4.1.1.{tail}"
        for tail in [
            "3",
            "5",
            "6",
            "8",
            "9",
            "9.1",
            "10",
            "11",
            "12.3",
            "12.77",
            "40",
            "77.1",
            "77.2",
            "88.1",
            "88.2",
            "88.3",
            "88.4",
            "129",
            "501.1",
            "501.2.1",
            "501.2.2",
            "501.3",
            "501.4",
            "501.5",
            "501.6",
            "601.1",
            "601.2",
        ]
    ),
    "1.2.840.10008.5.1.1.27",
    "1.2.840.10008.5.1.1.29",
    "1.2.840.10008.5.1.1.30",
    "1.2.840.10008.5.1.4.34.1",
}
STORAGE = {str(context.abstract_syntax) for context in AllStoragePresentationContexts} | OTHER_STORAGE


def test_the_whole_dictionary_is_told_apart() -> None:
    """Of all UIDs that pydicom and pynetdicom know, the storage SOP classes are storage, and no other is."""
    assert {uid for uid in {*UID_dictionary, *STORAGE} if is_storage(uid)} == STORAGE


@pytest.mark.parametrize(
    ("uid", "expected"),
    [
        ("1.2.826.0.1.3680043.10.1", True),
        ("2.25.329800735698586629295641978511506172918", True),
        ("1.3.46.670589.2.3.1.1", True),
        ("1.2.840.10008.5.1.4.1.1.9999", True),
        ("1.2.840.10008.5.1.4.1.1.200.99", True),
        ("1.2.840.10008.5.1.4.99.1", False),
        ("1.2.840.10008.99", False),
        ("1.2.840.100080.1", True),
        ("1.2.840.10008.5.1.4.1.1", False),
        ("../../etc/x", False),
        ("1." + "2" * 63, False),
        ("", False),
    ],
)
def test_what_no_dictionary_knows(uid: str, expected: bool) -> None:  # noqa: FBT001
    """Private UIDs and unknown ones below the root of composite storage are storage; other unknown ones are not."""
    assert is_storage(uid) is expected


@pytest.mark.parametrize(
    ("proposed", "expected"),
    [
        ([EXPLICIT], EXPLICIT),
        ([IMPLICIT], IMPLICIT),
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([EXPLICIT, IMPLICIT], EXPLICIT),
        ([IMPLICIT, JPEG, EXPLICIT], EXPLICIT),
        ([IMPLICIT, JPEG], IMPLICIT),
        ([JPEG, IMPLICIT, EXPLICIT], JPEG),
        ([J2K, JPEG], J2K),
        ([BIG_ENDIAN, EXPLICIT], BIG_ENDIAN),
        (["1.2.3.4", IMPLICIT], "1.2.3.4"),
        (["1.2.840.10008.1.2.9999", IMPLICIT], "1.2.840.10008.1.2.9999"),
        (["nonsense", IMPLICIT, EXPLICIT], EXPLICIT),
        ([CT, JPEG], JPEG),
        (["nonsense"], None),
        ([], None),
    ],
)
def test_the_first_proposed_wins_but_for_implicit_vr(proposed: list[str], expected: str | None) -> None:
    """The sender's order counts, except that Explicit VR Little Endian goes before Implicit."""
    assert preferred(proposed) == expected


@pytest.mark.parametrize("uid", AllTransferSyntaxes, ids=lambda uid: UID(uid).name)
def test_every_transfer_syntax_is_accepted(uid: str) -> None:
    """None is refused when it is the only one proposed."""
    assert preferred([uid]) == uid


def test_what_peers_propose_does_not_grow_memory() -> None:
    """What was found out about a UID is kept for so many UIDs, and for none that is too long to be one."""
    for known, ask in (
        (contexts._is_storage, is_storage),
        (contexts._may_be_transfer_syntax, lambda uid: preferred([uid])),
    ):
        for number in range(3000):
            ask(f"1.2.{number}")
        info = known.cache_info()
        assert info.maxsize is not None
        assert info.currsize == info.maxsize < 3000
        known.cache_clear()
        ask("1." + "2" * 63)
        assert known.cache_info().currsize == 0
