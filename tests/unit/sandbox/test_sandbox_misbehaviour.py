import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests
from sandbox_posts import (
    FAILED,
    OTHER,
    REFERENCED,
    connect,
    head,
    instance,
    multipart,
    post,
    reasons,
    uids,
)

from sandbox.running import RunningSandbox

A, B = instance("1.2.3.1"), instance("1.2.3.2")


def kept(sandbox: RunningSandbox) -> list[str]:
    return [entry["sop_instance_uid"] for entry in sandbox.instances()]


def test_a_status_answers_without_storing(sandbox: RunningSandbox) -> None:
    """status= is the whole answer, with the body and Retry-After that the rule gives."""
    sandbox.add_rule("status=503,retry_after=7,body=busy")
    response = post(sandbox.url, [A])
    assert (response.status_code, response.text, response.headers["Retry-After"]) == (503, "busy", "7")
    assert kept(sandbox) == []
    assert sandbox.requests()[-1]["sop_instance_uids"] == ["1.2.3.1"]


def test_a_status_can_store_first(sandbox: RunningSandbox) -> None:
    """store=1 is the archive that stores and then says that it did not."""
    sandbox.add_rule("status=500,store=1")
    assert post(sandbox.url, [A]).status_code == 500
    assert kept(sandbox) == ["1.2.3.1"]


@pytest.mark.parametrize("status", [200, 204, 302, 307, 400, 401, 403, 404, 408, 413, 422, 425, 429, 500, 599])
def test_any_status_can_be_asked_for(sandbox: RunningSandbox, status: int) -> None:
    """Every code comes out, and the connection stays usable after it."""
    sandbox.add_rule(f"first=1,status={status},location=http://127.0.0.1:9/elsewhere")
    with requests.Session() as session:
        session.post(f"{sandbox.url}/studies", timeout=10)  # refused: no rule is asked
        assert post(sandbox.url, [A]).status_code == status
        assert post(sandbox.url, [A]).status_code == 200


def test_a_redirect_names_its_location_and_a_401_its_scheme(sandbox: RunningSandbox) -> None:
    """3xx carries the Location of the rule; 401 a WWW-Authenticate, as RFC 9110 asks."""
    sandbox.add_rule({"first": 1, "status": 302, "location": "http://127.0.0.1:9/elsewhere"})
    assert post(sandbox.url, [A]).headers["Location"] == "http://127.0.0.1:9/elsewhere"
    sandbox.add_rule("first=1,status=401")
    assert "Bearer" in post(sandbox.url, [A]).headers["WWW-Authenticate"]


def test_a_status_can_change_the_code_of_a_normal_response(sandbox: RunningSandbox) -> None:
    """With fail= the response is the normal one, under the code that the rule gives."""
    sandbox.add_rule("status=200,fail=0x0122,uid=1.2.3.1")
    response = post(sandbox.url, [A, B])
    assert response.status_code == 200
    assert (uids(response, REFERENCED), uids(response, FAILED)) == (["1.2.3.2"], ["1.2.3.1"])


def test_a_body_can_pretend_to_be_dicom(sandbox: RunningSandbox) -> None:
    """media= is the Content-Type of a body that a rule gives."""
    sandbox.add_rule({"status": 409, "media": "json", "body": '{"00081198": {"vr": "SQ"}, "x": 1}'})
    response = post(sandbox.url, [A])
    assert response.headers["Content-Type"].startswith("application/dicom+json")
    assert response.json()["x"] == 1


def test_failures_are_reported_and_not_stored(sandbox: RunningSandbox) -> None:
    """fail= without uid is for every instance of the request: 409, each with the reason."""
    sandbox.add_rule("fail=0xA700")
    response = post(sandbox.url, [A, B])
    assert response.status_code == 409
    assert (uids(response, FAILED), reasons(response, FAILED)) == (["1.2.3.1", "1.2.3.2"], [0xA700] * 2)
    assert kept(sandbox) == []


def test_one_instance_can_fail(sandbox: RunningSandbox, until: Callable[[Callable[[], bool]], None]) -> None:
    """fail= with uid is for that instance alone: 202, the others are stored."""
    sandbox.add_rule("uid=1.2.3.1,fail=0x0122")
    response = post(sandbox.url, [A, B])
    assert response.status_code == 202
    assert (uids(response, FAILED), reasons(response, FAILED)) == (["1.2.3.1"], [0x0122])
    assert kept(sandbox) == ["1.2.3.2"]
    until(lambda: "stored 1, failed 1 (1.2.3.1: 0122) → 202" in sandbox.lines[-1])


def test_a_failure_can_hide_its_instance(sandbox: RunningSandbox) -> None:
    """fail_unnamed=1 puts the reason into OtherFailuresSequence, and the UID nowhere."""
    sandbox.add_rule("uid=1.2.3.1,fail=0xC122,fail_unnamed=1")
    response = post(sandbox.url, [A, B])
    assert response.status_code == 202
    assert reasons(response, OTHER) == [0xC122]
    assert "1.2.3.1" not in response.text


def test_a_warning_comes_with_a_stored_instance(sandbox: RunningSandbox) -> None:
    """warn= stores and answers 202 with the WarningReason."""
    sandbox.add_rule("uid=1.2.3.2,warn=0xB000")
    response = post(sandbox.url, [A, B])
    assert response.status_code == 202
    warnings = [entry.get("00081196", {}).get("Value") for entry in response.json()[REFERENCED]["Value"]]
    assert warnings == [None, [0xB000]]
    assert kept(sandbox) == ["1.2.3.1", "1.2.3.2"]


def test_an_answer_can_be_spoilt(sandbox: RunningSandbox) -> None:
    """answer= stores, answers 200, and says nothing that a sender could rely on."""
    answers = {}
    for kind in ("empty", "html", "truncated", "json-garbage", "omit"):
        sandbox.clear_rules()
        sandbox.add_rule(f"answer={kind}")
        answers[kind] = post(sandbox.url, [A])
        assert answers[kind].status_code == 200
    assert answers["empty"].content == b""
    assert answers["html"].headers["Content-Type"] == "text/html"
    assert answers["html"].text.startswith("<!DOCTYPE html>")
    with pytest.raises(json.JSONDecodeError):
        answers["truncated"].json()
    assert answers["truncated"].text.startswith('{"00081190"')
    assert not any(key.startswith("0008") for key in answers["json-garbage"].json())
    assert REFERENCED not in answers["omit"].json()
    assert kept(sandbox) == ["1.2.3.1"]


def test_an_answer_can_leave_one_instance_out(sandbox: RunningSandbox) -> None:
    """answer=omit with uid stores all and names all but that one."""
    sandbox.add_rule("uid=1.2.3.1,answer=omit")
    response = post(sandbox.url, [A, B])
    assert (response.status_code, uids(response, REFERENCED)) == (200, ["1.2.3.2"])
    assert kept(sandbox) == ["1.2.3.1", "1.2.3.2"]


def test_the_format_of_the_answer_can_be_forced(sandbox: RunningSandbox) -> None:
    """media=xml answers in XML whatever the sender asked for, media=json the other way."""
    for media, accept in (("xml", "application/dicom+json"), ("json", "application/dicom+xml")):
        sandbox.clear_rules()
        sandbox.add_rule(f"media={media}")
        response = post(sandbox.url, [A], headers={"Accept": accept})
        assert response.headers["Content-Type"] == f"application/dicom+{media}"


def test_a_delay_comes_before_the_answer(sandbox: RunningSandbox) -> None:
    """delay= stores at once and lets the sender wait for the first byte; others are served meanwhile."""
    sandbox.add_rule("first=1,delay=0.8")
    body = multipart([A])
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(body)) + body)
        started = time.monotonic()
        assert post(sandbox.url, [B]).status_code == 200
        assert time.monotonic() - started < 0.6
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        assert time.monotonic() - started >= 0.75


def test_a_hang_comes_in_the_middle_of_the_answer(sandbox: RunningSandbox) -> None:
    """hang= sends the head and half of the body at once, the rest after the time."""
    sandbox.add_rule("hang=0.8")
    started = time.monotonic()
    with requests.post(
        f"{sandbox.url}/studies",
        data=multipart([A]),
        headers={"Content-Type": 'multipart/related; type="application/dicom"; boundary=stowgate-boundary'},
        stream=True,
        timeout=10,
    ) as response:
        assert response.status_code == 200
        assert response.raw.read(10) == b'{"00081190'
        assert time.monotonic() - started < 0.6
        rest = response.raw.read()
    assert time.monotonic() - started >= 0.75
    assert REFERENCED in json.loads(b'{"00081190' + rest)


@pytest.mark.parametrize(("when", "stored"), [("before", []), ("during", []), ("after", ["1.2.3.1"])])
def test_a_connection_can_be_dropped(sandbox: RunningSandbox, when: str, stored: list[str]) -> None:
    """drop= resets the connection unanswered; only drop=after has stored."""
    sandbox.add_rule(f"first=1,drop={when}")
    with pytest.raises(requests.ConnectionError):
        post(sandbox.url, [A])
    assert kept(sandbox) == stored
    record = sandbox.requests()[-1]
    assert (record["status"], record["dropped"], record["rule"]) == (None, when, sandbox.rules()[0]["id"])
    assert post(sandbox.url, [A]).status_code == 200


def test_a_drop_is_a_reset_and_comes_before_the_whole_body(sandbox: RunningSandbox) -> None:
    """The sender sees ECONNRESET, at the head with drop=before and halfway with drop=during."""
    body = multipart([A])
    sandbox.add_rule("first=1,drop=before")
    sandbox.add_rule("first=1,drop=during")
    for sent in (b"", body[: len(body) // 2 + 1]):
        with connect(sandbox.url) as connection:
            connection.sendall(head(len(body)) + sent)
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
    before, during = sandbox.requests()
    assert (before["dropped"], before["bytes"]) == ("before", 0)
    assert (during["dropped"], during["bytes"]) == ("during", len(body) // 2 + 1)


def test_a_drop_can_follow_one_instance_around(sandbox: RunningSandbox) -> None:
    """drop=during with uid lets requests without the instance pass, and cuts off at it before the body ends."""
    sandbox.add_rule("uid=1.2.3.1,drop=during")
    assert post(sandbox.url, [B]).status_code == 200
    body = multipart([A, B])
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(body)) + body[: body.index(b"1.2.3.2")])
        with pytest.raises(ConnectionResetError):
            connection.recv(100)
    assert kept(sandbox) == ["1.2.3.2"]
    assert sandbox.requests()[-1]["sop_instance_uids"] == ["1.2.3.1"]


def test_fail_can_go_with_a_drop(sandbox: RunningSandbox) -> None:
    """drop=after with fail stores the other instances, and nobody learns of it."""
    sandbox.add_rule("uid=1.2.3.1,fail=0xA700,drop=after")
    with pytest.raises(requests.ConnectionError):
        post(sandbox.url, [A, B])
    assert kept(sandbox) == ["1.2.3.2"]


def test_selectors_pick_the_posts(sandbox: RunningSandbox) -> None:
    """every, first, uid and min_instances decide over real requests, and the first match wins."""
    sandbox.add_rule("uid=1.2.3.2,first=1,status=500")
    sandbox.add_rule("min_instances=2,status=413")
    sandbox.add_rule("every=2,status=503")
    statuses = [post(sandbox.url, parts).status_code for parts in ([A], [B], [A], [A, B], [A], [A])]
    assert statuses == [200, 500, 503, 413, 200, 503]
    assert [(rule["seen"], rule["hits"]) for rule in sandbox.rules()] == [(2, 1), (1, 1), (4, 2)]


def test_a_size_can_be_too_large(sandbox: RunningSandbox) -> None:
    """min_bytes counts the bytes of the whole request."""
    body = multipart([A])
    sandbox.add_rule(f"min_bytes={len(body) + 1},status=413")
    assert [post(sandbox.url, parts).status_code for parts in ([A], [A, B], [B])] == [200, 413, 200]


def test_so_many_requests_at_a_time_can_be_too_many(sandbox: RunningSandbox) -> None:
    """min_requests counts the POSTs that have not been answered."""
    sandbox.add_rule("min_requests=2,status=429")
    sandbox.add_rule("delay=1")
    with ThreadPoolExecutor(2) as pool:
        statuses = pool.map(lambda parts: post(sandbox.url, parts).status_code, ([A], [B]))
    assert sorted(statuses) == [200, 429]
    assert post(sandbox.url, [A]).status_code == 200


def test_a_rule_does_not_hide_a_fault_of_the_sender(sandbox: RunningSandbox) -> None:
    """A malformed request is refused as ever, whatever a rule would answer."""
    sandbox.add_rule("status=200")
    assert post(sandbox.url, body=b"rubbish").status_code == 400
    assert post(sandbox.url, [A], headers={"Content-Type": "text/plain"}).status_code == 415


def test_a_bad_instance_keeps_its_own_failure(sandbox: RunningSandbox) -> None:
    """fail= does not cover up that a part was no DICOM at all."""
    sandbox.add_rule("fail=0xA700")
    response = post(sandbox.url, [A, b"rubbish"])
    assert (reasons(response, FAILED), reasons(response, OTHER)) == ([0xA700], [0xC000])
