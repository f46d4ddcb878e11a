import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from defusedxml import ElementTree
from pydicom.dataset import Dataset
from sandbox_posts import (
    BOUNDARY,
    CONTENT_TYPE,
    FAILED,
    OTHER,
    REFERENCED,
    STUDY,
    connect,
    dataset,
    head,
    instance,
    multipart,
    part10,
    post,
    reasons,
    uids,
)

from sandbox.running import RunningSandbox


def test_instances_are_stored_as_they_were_sent(sandbox: RunningSandbox) -> None:
    """200 names every instance as stored, and each can be had back byte for byte."""
    sent = {uid: instance(uid) for uid in ("1.2.3.1", "1.2.3.2", "1.2.3.3")}
    response = post(sandbox.url, list(sent.values()))
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/dicom+json"
    assert uids(response, REFERENCED) == list(sent)
    assert response.json()["00081190"]["Value"] == [f"{sandbox.url}/studies/{STUDY}"]
    assert {uid: sandbox.instance(uid) for uid in sent} == sent


def test_the_answer_is_xml_as_asked(sandbox: RunningSandbox) -> None:
    """Accept: application/dicom+xml gets a Native DICOM Model with the stored instance."""
    response = post(sandbox.url, [instance("1.2.3.1")], headers={"Accept": "application/dicom+xml"})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/dicom+xml"
    values = [value.text for value in ElementTree.fromstring(response.content).iter() if value.text]
    assert "1.2.3.1" in values


def test_the_same_bytes_again_are_a_success_and_counted(sandbox: RunningSandbox) -> None:
    """A sender that is unsure may send again: 200, one instance, two posts."""
    sent = instance("1.2.3.1")
    for _ in range(2):
        response = post(sandbox.url, [sent])
        assert response.status_code == 200
        assert uids(response, REFERENCED) == ["1.2.3.1"]
    assert sandbox.instances() == [{"sop_instance_uid": "1.2.3.1", "size_bytes": len(sent), "posts": 2}]


def test_other_bytes_of_a_known_uid_are_a_duplicate(sandbox: RunningSandbox) -> None:
    """The second instance fails with 0x0111, the first one stays."""
    first = instance("1.2.3.1")
    post(sandbox.url, [first])
    response = post(sandbox.url, [instance("1.2.3.1", study="1.9.9")])
    assert response.status_code == 409
    assert (uids(response, FAILED), reasons(response, FAILED)) == (["1.2.3.1"], [0x0111])
    assert sandbox.instance("1.2.3.1") == first
    assert sandbox.instances()[0]["posts"] == 2


def test_one_bad_instance_does_not_keep_the_others_out(sandbox: RunningSandbox) -> None:
    """202 with each instance in its sequence: stored, failed by name, failed without identity."""
    mismatched = dataset("1.2.3.2")
    mismatched.SOPInstanceUID = "1.2.3.9"
    response = post(sandbox.url, [instance("1.2.3.1"), part10(mismatched), b"rubbish", instance("1.2.3.4")])
    assert response.status_code == 202
    assert uids(response, REFERENCED) == ["1.2.3.1", "1.2.3.4"]
    assert (uids(response, FAILED), reasons(response, FAILED)) == (["1.2.3.9"], [0xA900])
    assert reasons(response, OTHER) == [0xC000]
    assert [entry["sop_instance_uid"] for entry in sandbox.instances()] == ["1.2.3.1", "1.2.3.4"]


def test_a_study_in_the_url_binds_the_instances(sandbox: RunningSandbox) -> None:
    """An instance of another study fails with a code of A9xx, those of the study are stored."""
    mine, other = instance("1.2.3.1", study="1.2.3"), instance("1.2.3.2", study="1.2.4")
    response = post(sandbox.url, [mine, other], study="1.2.3")
    assert response.status_code == 202
    assert uids(response, REFERENCED) == ["1.2.3.1"]
    assert (uids(response, FAILED), reasons(response, FAILED)) == (["1.2.3.2"], [0xA901])
    assert post(sandbox.url, [mine], study="not-a-uid").status_code == 400


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
@pytest.mark.parametrize("hostile", ["../../escaped", "/escaped", "1.2/../escaped", "..", ""])
def test_a_uid_that_could_be_a_path_writes_nothing(sandbox: RunningSandbox, tmp_path: Path, hostile: str) -> None:
    """A UID that is none fails without identity, and no file appears anywhere under its name."""
    made = dataset("1.2.3.1")
    made.SOPInstanceUID = hostile
    made.file_meta.MediaStorageSOPInstanceUID = hostile
    before = set(tmp_path.parent.rglob("*"))
    response = post(sandbox.url, [part10(made)])
    assert response.status_code == 409
    assert reasons(response, OTHER) == [0xC000]
    assert sandbox.instances() == []
    assert set(tmp_path.parent.rglob("*")) - before == set()  # what other tests left may go meanwhile
    assert not Path("/escaped.dcm").exists()


GOOD = multipart([instance("1.2.3.1")])
REFUSED: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "another media type": (GOOD, {"Content-Type": "application/dicom"}, 415, "expected Content-Type"),
    "no boundary": (GOOD, {"Content-Type": CONTENT_TYPE.partition("; boundary")[0]}, 400, "no boundary"),
    "the wrong boundary": (GOOD, {"Content-Type": CONTENT_TYPE + "x"}, 400, "expected the body to start with"),
    "no closing delimiter": (GOOD[:-2], {}, 400, "found the end right after a delimiter"),
    "an epilogue": (GOOD + b"bye", {}, 400, "nothing but whitespace"),
    "another part header": (GOOD.replace(b"application/dicom", b"image/jpeg"), {}, 400, "found 'image/jpeg'"),
    "no body": (b"", {}, 400, "found the end before the first delimiter"),
    "a content encoding": (GOOD, {"Content-Encoding": "gzip"}, 415, "without Content-Encoding"),
    "an answer of another kind": (GOOD, {"Accept": "text/html"}, 406, "expected Accept"),
}


@pytest.mark.parametrize(("body", "headers", "status", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_request_is_refused_whole(
    sandbox: RunningSandbox, body: bytes, headers: dict[str, str], status: int, text: str
) -> None:
    """The answer says in plain text what was expected and found, and nothing is stored."""
    response = post(sandbox.url, body=body, headers=headers)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("text/plain")
    assert text in response.text
    assert sandbox.instances() == []
    record = sandbox.requests()[-1]
    assert (record["status"], record["refused"]) == (status, response.text.strip())


def test_good_parts_before_bad_framing_are_not_stored(sandbox: RunningSandbox) -> None:
    """400 means that nothing was stored, also where the fault comes after a whole instance."""
    body = multipart([instance("1.2.3.1"), instance("1.2.3.2")]).removesuffix(b"--")
    assert post(sandbox.url, body=body).status_code == 400
    assert sandbox.instances() == []
    assert sandbox.requests()[-1]["sop_instance_uids"] == ["1.2.3.1", "1.2.3.2"]


def test_a_chunked_body_is_refused(sandbox: RunningSandbox) -> None:
    """411: some archives answer 200 to a chunked body and store nothing."""
    response = requests.post(
        f"{sandbox.url}/studies", data=iter([GOOD]), headers={"Content-Type": CONTENT_TYPE}, timeout=10
    )
    assert response.status_code == 411
    assert sandbox.instances() == []


def test_no_content_length_is_refused(sandbox: RunningSandbox) -> None:
    """411 as well for a request that does not say how long it is."""
    with connect(sandbox.url) as connection:
        connection.sendall(head(None, "Connection: close"))
        assert connection.recv(100).startswith(b"HTTP/1.1 411 ")


def test_a_sender_that_waits_for_100_continue_gets_it_only_with_a_good_head(sandbox: RunningSandbox) -> None:
    """Expect: 100-continue is answered 100 before a body that will be read, and with the refusal otherwise."""
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(GOOD), "Expect: 100-continue"))
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(GOOD)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(GOOD), "Expect: 100-continue", "Accept: text/html"))
        assert connection.recv(100).startswith(b"HTTP/1.1 406 ")


def test_a_sender_that_goes_away_leaves_nothing_but_a_record(
    sandbox: RunningSandbox, until: Callable[[Callable[[], bool]], None]
) -> None:
    """Half a body stores nothing, leaves no file, and is noted as the peer's doing."""
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(GOOD)) + GOOD[: len(GOOD) // 2])
    until(lambda: bool(sandbox.requests()))
    record = sandbox.requests()[-1]
    assert (record["status"], record["dropped"], record["bytes"]) == (None, "peer", len(GOOD) // 2)
    assert sandbox.instances() == []


def test_a_slow_sender_is_served(sandbox: RunningSandbox) -> None:
    """A body that comes in drops, cut at any place, is stored like any other."""
    with connect(sandbox.url) as connection:
        connection.sendall(head(len(GOOD)))
        for at in range(0, len(GOOD), 61):
            connection.sendall(GOOD[at : at + 61])
            time.sleep(0.001)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")


def test_nothing_written_about_a_request_identifies_a_patient(
    sandbox: RunningSandbox, until: Callable[[Callable[[], bool]], None]
) -> None:
    """Neither answers nor the output nor the list of requests carry a name or an ID."""
    broken = dataset("1.2.3.2")
    broken.SOPInstanceUID = "1.2.3.9"
    body = multipart([instance("1.2.3.1")])
    name = body.index(b"Secret")
    with connect(sandbox.url) as connection:  # a Content-Length too small: the name comes where a request should
        connection.sendall(head(name) + body[:name])
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")
        connection.sendall(body[name:])
        assert connection.recv(1000).startswith(b"HTTP/1.0 400 ")
    until(lambda: "sandbox: refused: expected HTTP/1.1 → 400" in sandbox.lines)
    answers = [
        post(sandbox.url, [instance("1.2.3.1"), part10(broken)]).text,
        post(sandbox.url, body=multipart([instance("1.2.3.1")]) + instance("1.2.3.3")).text,
        str(sandbox.requests()),
        "\n".join(sandbox.lines),
    ]
    assert "1.2.3.1" in answers[0]
    for text in answers:
        assert "Secret" not in text
        assert "SECRET" not in text


def test_concurrent_posts_of_one_uid_agree(sandbox: RunningSandbox, together: Callable[..., list[int]]) -> None:
    """Of several different instances with one UID at the same time, exactly one is stored."""
    sent = [instance("1.2.3.1", study=f"1.9.{number}") for number in range(1, 9)]
    statuses = together(lambda part: post(sandbox.url, [part]).status_code, sent)
    assert sorted(statuses) == [200] + [409] * 7
    assert sandbox.instance("1.2.3.1") in sent


def test_what_is_written_is_readable_dicom(sandbox: RunningSandbox) -> None:
    """A JSON answer is a dataset that pydicom reads back."""
    response = post(sandbox.url, [instance("1.2.3.1")])
    read = Dataset.from_json(response.text)
    assert read.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "1.2.3.1"
    assert BOUNDARY not in response.text
