"""Search and Retrieve of single instances, and what becomes of a UID that is there already."""

import email
import email.policy
from typing import Any

import pytest
import requests
from sandbox_posts import FAILED, REFERENCED, SERIES, STUDY, dataset, instance, part10, post, reasons, uids

from sandbox.running import RunningSandbox

A = instance("1.2.3.1")
DICOM = 'multipart/related; type="application/dicom"; transfer-syntax=*'


def other(uid: str = "1.2.3.1") -> bytes:
    """Another instance of the same UID."""
    made = dataset(uid)
    made.PatientComments = "the other one"
    return part10(made)


def search(sandbox: RunningSandbox, uid: str, *, below: str = f"/studies/{STUDY}/series/{SERIES}") -> requests.Response:
    return requests.get(f"{sandbox.url}{below}/instances", params={"SOPInstanceUID": uid}, timeout=10)


def retrieve(sandbox: RunningSandbox, uid: str, *, study: str = STUDY, accept: str = DICOM) -> requests.Response:
    url = f"{sandbox.url}/studies/{study}/series/{SERIES}/instances/{uid}"
    return requests.get(url, headers={"Accept": accept}, timeout=10)


def parts_of(response: requests.Response) -> list[bytes]:
    head = f"Content-Type: {response.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + response.content, policy=email.policy.HTTP)
    return [bytes(part.get_payload(decode=True)) for part in message.iter_parts()]  # type: ignore[attr-defined]


@pytest.mark.parametrize("below", [f"/studies/{STUDY}/series/{SERIES}", ""])
def test_a_search_finds_what_is_there(sandbox: RunningSandbox, below: str) -> None:
    """In its series and at large: one dataset with its UIDs, or 204."""
    assert search(sandbox, "1.2.3.1", below=below).status_code == 204
    post(sandbox.url, [A])
    found = search(sandbox, "1.2.3.1", below=below)
    assert found.headers["Content-Type"].startswith("application/dicom+json")
    (entry,) = found.json()
    assert [entry[tag]["Value"] for tag in ("00080018", "0020000D", "0020000E")] == [["1.2.3.1"], [STUDY], [SERIES]]


def test_a_search_in_another_series_finds_nothing(sandbox: RunningSandbox) -> None:
    """An instance is where its dataset says."""
    post(sandbox.url, [A])
    assert search(sandbox, "1.2.3.1", below=f"/studies/{STUDY}/series/1.9").status_code == 204
    assert search(sandbox, "../../etc/passwd").status_code == 400


def test_a_retrieve_gives_the_bytes_that_were_posted(sandbox: RunningSandbox) -> None:
    """One part, byte for byte; 404 for what is not there, or not in that study."""
    post(sandbox.url, [A])
    assert parts_of(retrieve(sandbox, "1.2.3.1")) == [A]
    assert retrieve(sandbox, "1.2.3.9").status_code == 404
    assert retrieve(sandbox, "1.2.3.1", study="1.9").status_code == 404


@pytest.mark.parametrize("accept", ["", "application/dicom+json", 'multipart/related; type="application/dicom"'])
def test_a_retrieve_converts_nothing(sandbox: RunningSandbox, accept: str) -> None:
    """Who does not ask for what is stored asks for a conversion (PS3.18 8.7.3.5), which is refused."""
    post(sandbox.url, [A])
    assert retrieve(sandbox, "1.2.3.1", accept=accept).status_code == 406


EXISTS: dict[str, tuple[str, bytes, int, bytes]] = {
    "kept, the same": ("exists=keep", A, 0, A),
    "kept, another": ("exists=keep", other(), 0, A),
    "replaced": ("exists=replace", other(), 0, other()),
    "refused, the same": ("exists=refuse", A, 0x0111, A),
    "Azure, the same": ("exists=refuse,fail=45070", A, 45070, A),
    "Azure, another": ("exists=refuse,fail=45070", other(), 45070, A),
}


@pytest.mark.parametrize("name", EXISTS)
def test_a_uid_that_is_there_already(sandbox: RunningSandbox, name: str) -> None:
    """An archive may keep the first and call the second stored, take the second, or refuse it though it is the same."""
    rule, second, reason, kept = EXISTS[name]
    sandbox.add_rule(rule)
    assert post(sandbox.url, [A]).status_code == 200
    answer = post(sandbox.url, [second])
    assert uids(answer, FAILED if reason else REFERENCED) == ["1.2.3.1"]
    if reason:
        assert reasons(answer, FAILED) == [reason]
    assert parts_of(retrieve(sandbox, "1.2.3.1")) == [kept]


MISBEHAVIOUR: dict[str, Any] = {
    "status=503,retry_after=7": 503,
    "status=403": 403,
    "answer=html": 200,
    "answer=empty": 200,
    "answer=json-garbage": 200,
}


@pytest.mark.parametrize("on", ["search", "retrieve"])
@pytest.mark.parametrize("rule", MISBEHAVIOUR)
def test_a_get_can_misbehave(sandbox: RunningSandbox, on: str, rule: str) -> None:
    """on= makes a rule for one transaction: the others are not asked by it."""
    sandbox.add_rule(f"first=1,on={on},{rule}")
    assert post(sandbox.url, [A]).status_code == 200
    ask = search if on == "search" else retrieve
    neighbour = retrieve if on == "search" else search
    assert neighbour(sandbox, "1.2.3.1").status_code == 200
    assert sandbox.rules()[0]["hits"] == 0
    answer = ask(sandbox, "1.2.3.1")
    assert answer.status_code == MISBEHAVIOUR[rule]
    assert b"1.2.3.1" not in answer.content
    assert b"1.2.3.1" in ask(sandbox, "1.2.3.1").content


@pytest.mark.parametrize("rule", ["drop=before", "answer=truncated"])
def test_a_retrieve_can_break(sandbox: RunningSandbox, rule: str) -> None:
    """The connection goes before the answer, or in the middle of it."""
    post(sandbox.url, [A])
    sandbox.add_rule(f"on=retrieve,{rule}")
    with pytest.raises(requests.RequestException):
        retrieve(sandbox, "1.2.3.1")


def test_a_get_can_deny_that_an_instance_is_there(sandbox: RunningSandbox) -> None:
    """answer=omit is an index that lags behind."""
    post(sandbox.url, [A])
    sandbox.add_rule("first=1,on=search,answer=omit")
    sandbox.add_rule("first=1,on=retrieve,answer=omit,uid=1.2.3.1")
    assert search(sandbox, "1.2.3.1").status_code == 204
    assert retrieve(sandbox, "1.2.3.1").status_code == 404
    assert search(sandbox, "1.2.3.1").status_code == retrieve(sandbox, "1.2.3.1").status_code == 200
