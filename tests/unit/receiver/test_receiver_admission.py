import ipaddress
import threading
from typing import Any

import pytest

from common.config import ReceiverConfig
from receiver.admission import (
    CALLED_AE_TITLE,
    CALLING_AE_TITLE,
    DISK_FULL,
    LIMIT,
    PEER,
    Admission,
    Rejection,
    plain_address,
)


def admission(*, room: bool = True, **settings: Any) -> Admission:
    return Admission(ReceiverConfig(**settings), lambda: room)


def ask(
    admission: Admission, called: str = "STOWGATE", calling: str = "CT-1", address: str = "192.0.2.7"
) -> Rejection | None:
    return admission.admit(called=called, calling=calling, address=address)


def test_by_default_everybody_is_admitted() -> None:
    """Without allow-lists no title and no address is asked for."""
    assert ask(admission(), called="X", calling="Y", address="2001:db8::1") is None


@pytest.mark.parametrize(
    ("called", "expected"),
    [("STOWGATE", None), ("  STOWGATE ", None), ("stowgate", CALLED_AE_TITLE), ("", CALLED_AE_TITLE)],
)
def test_the_called_title_is_compared_without_padding(called: str, expected: Rejection | None) -> None:
    """Spaces around it do not count, case does (PS3.5 6.2, AE)."""
    assert ask(admission(require_called_ae_title=True), called=called) == expected


@pytest.mark.parametrize(
    ("calling", "expected"), [("CT-1 ", None), ("MR 2", None), ("MR2", CALLING_AE_TITLE), ("", CALLING_AE_TITLE)]
)
def test_the_calling_title_must_be_in_the_list(calling: str, expected: Rejection | None) -> None:
    """If there is a list."""
    assert ask(admission(allowed_calling_ae_titles=("CT-1", "MR 2")), calling=calling) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.1.2.3", None), ("10.2.2.3", PEER), ("2001:db8::5", None), ("2001:db9::5", PEER), ("no address", PEER)],
)
def test_the_peer_must_be_in_a_network(address: str, expected: Rejection | None) -> None:
    """If networks are given; IPv4 and IPv6."""
    networks = (ipaddress.ip_network("10.1.0.0/16"), ipaddress.ip_network("2001:db8::/32"))
    assert ask(admission(allowed_peers=networks), address=address) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:DB8::1", "2001:db8::1"),
        ("nonsense", "nonsense"),
    ],
)
def test_an_address_is_known_in_one_form(address: str, expected: str) -> None:
    """IPv4 behind an IPv6 socket is IPv4, and a scope does not count."""
    assert plain_address(address) == expected


def test_the_limit_counts_who_is_there() -> None:
    """As many as max_associations, and one more for each that left."""
    asked = admission(max_associations=2)
    assert [ask(asked) for _ in range(3)] == [None, None, LIMIT]
    asked.leave()
    assert [ask(asked) for _ in range(2)] == [None, LIMIT]


def test_who_is_rejected_takes_no_place() -> None:
    """A rejection does not count against the limit."""
    asked = admission(max_associations=1, allowed_calling_ae_titles=("CT-1",))
    for _ in range(5):
        assert ask(asked, calling="OTHER") == CALLING_AE_TITLE
    assert ask(asked) is None


def test_the_limit_holds_when_many_ask_at_once() -> None:
    """Places are given one by one."""
    asked = admission(max_associations=10)
    answers: list[Rejection | None] = []
    threads = [threading.Thread(target=lambda: answers.append(ask(asked))) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers.count(None) == 10


def test_a_full_disk_rejects_for_now() -> None:
    """Transient: the sender may come again."""
    assert ask(admission(room=False)) == DISK_FULL


def test_a_stranger_is_not_told_about_the_disk() -> None:
    """Who may not come is rejected for that, for good, whatever else is the matter."""
    assert ask(admission(room=False, allowed_calling_ae_titles=("X",))) == CALLING_AE_TITLE


@pytest.mark.parametrize(
    ("rejection", "numbers"),
    [
        (PEER, (1, 1, 1)),
        (CALLING_AE_TITLE, (1, 1, 3)),
        (CALLED_AE_TITLE, (1, 1, 7)),
        (DISK_FULL, (2, 3, 1)),
        (LIMIT, (2, 3, 2)),
    ],
)
def test_rejections_have_the_numbers_of_the_standard(rejection: Rejection, numbers: tuple[int, int, int]) -> None:
    """PS3.8 Table 9-21."""
    assert (rejection.result, rejection.source, rejection.diagnostic) == numbers
