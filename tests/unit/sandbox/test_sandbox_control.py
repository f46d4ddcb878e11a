import hashlib

import pytest
import requests
from sandbox_posts import instance, multipart, post

from sandbox.running import RunningSandbox

A = instance("1.2.3.1")


def test_it_says_that_it_is_no_archive(sandbox: RunningSandbox) -> None:
    """A person sees it on the first page and on the terminal, a program in JSON, and anyone in each answer."""
    page = requests.get(sandbox.control.removesuffix("sandbox"), timeout=10)
    assert "no archive" in page.text
    assert page.headers["Content-Type"].startswith("text/plain")
    assert any("no archive" in line for line in sandbox.lines)
    assert sandbox.summary()["archive"] is False
    assert "no archive" in post(sandbox.url, [A]).headers["Server"]


def test_the_first_page_lists_every_control_resource(sandbox: RunningSandbox) -> None:
    """Each method and path that the page names is answered by something other than 404 or 405."""
    origin = sandbox.control.removesuffix("/sandbox")
    listed = [line.split() for line in requests.get(origin, timeout=10).text.splitlines() if " /" in line[:9]]
    assert len(listed) == 15
    for method, path in listed:
        for name, value in {"{id}": "99", "{uid}": "1.2", "{study}": "1.2", "{series}": "1.3"}.items():
            path = path.replace(name, value)  # noqa: PLW2901
        answer = requests.request(method, origin + path, timeout=10)
        found = answer.status_code < 400 or answer.text.startswith("expected")
        assert found, (method, path, answer.status_code)


def test_the_summary_counts(sandbox: RunningSandbox) -> None:
    """Requests, bytes, instances and posts since the start or the last time that everything was forgotten."""
    post(sandbox.url, [A])
    post(sandbox.url, [A, instance("1.2.3.2")])
    post(sandbox.url, body=b"rubbish")
    summary = sandbox.summary()
    assert (summary["requests"], summary["instances"], summary["posts"]) == (3, 2, 3)
    assert summary["instance_bytes"] == sum(entry["size_bytes"] for entry in sandbox.instances())
    assert summary["request_bytes"] == sum(record["bytes"] for record in sandbox.requests())
    assert summary["rules"] == []


def test_rules_come_and_go(sandbox: RunningSandbox) -> None:
    """Text and JSON both add a rule; a rule can be removed alone or with all others."""
    first = sandbox.add_rule("status=503")
    second = sandbox.add_rule({"uid": "1.2.3.1", "fail": 0xA700})
    assert second > first
    assert sandbox.rules() == [
        {"id": first, "rule": {"status": 503}, "seen": 0, "hits": 0},
        {"id": second, "rule": {"uid": "1.2.3.1", "fail": "0xA700"}, "seen": 0, "hits": 0},
    ]
    sandbox.remove_rule(first)
    assert [rule["id"] for rule in sandbox.rules()] == [second]
    sandbox.clear_rules()
    assert post(sandbox.url, [A]).status_code == 200


@pytest.mark.parametrize(
    ("data", "content_type", "text"),
    [
        (b"status=busy", "text/plain", "expected an HTTP status"),
        (b'{"status": "busy"}', "application/json", "expected an HTTP status"),
        (b"[]", "application/json", "expected a JSON object, found list"),
        (b"{", "application/json", "Expecting property name"),
        (b"", "text/plain", "expected key=value"),
        (b"\xff", "text/plain; charset=utf-8", "expected UTF-8"),
    ],
)
def test_a_wrong_rule_is_answered_400(sandbox: RunningSandbox, data: bytes, content_type: str, text: str) -> None:
    """The answer says what is wrong, and no rule is added."""
    answer = requests.post(f"{sandbox.control}/rules", data=data, headers={"Content-Type": content_type}, timeout=10)
    assert answer.status_code == 400
    assert text in answer.text
    assert sandbox.rules() == []


def test_removing_what_is_not_there_is_404(sandbox: RunningSandbox) -> None:
    """A rule or an instance that does not exist is not found, and a path is no instance."""
    post(sandbox.url, [A])
    for method, path in (
        ("DELETE", "/rules/999"),
        ("GET", "/instances/1.2.3.9"),
        ("GET", "/instances/..%2F..%2Fetc%2Fpasswd"),
        ("GET", "/instances/.partial"),
        ("GET", "/instances/.partial%2F..%2F1.2.3.1"),
    ):
        assert requests.request(method, sandbox.control + path, timeout=10).status_code == 404


def test_instances_can_be_checked_and_forgotten(sandbox: RunningSandbox) -> None:
    """The list gives size, posts and on demand the SHA-256; forgetting deletes files, counts and requests."""
    post(sandbox.url, [A])
    expected = {"sop_instance_uid": "1.2.3.1", "size_bytes": len(A), "posts": 1}
    assert sandbox.instances() == [expected]
    assert sandbox.instances(digest=True) == [expected | {"sha256": hashlib.sha256(A).hexdigest()}]
    answer = requests.get(f"{sandbox.control}/instances/1.2.3.1", timeout=10)
    assert (answer.content, answer.headers["Content-Type"]) == (A, "application/dicom")
    sandbox.add_rule("first=1,delay=0")
    sandbox.forget()
    assert (sandbox.instances(), sandbox.requests(), sandbox.summary()["posts"]) == ([], [], 0)
    assert len(sandbox.rules()) == 1
    assert post(sandbox.url, [instance("1.2.3.1", study="1.9.9")]).status_code == 200


def test_each_request_is_on_record(sandbox: RunningSandbox) -> None:
    """A record has the time, the size, the UIDs, what was answered, and why instances failed."""
    rule = sandbox.add_rule("uid=1.2.3.1,fail=0xA700")
    post(sandbox.url, [A, instance("1.2.3.2"), b"rubbish"])
    (record,) = sandbox.requests()
    assert record.pop("time").endswith("+00:00")
    failures = record.pop("failures")
    assert record == {
        "path": "/dicom-web/studies",
        "instances": 3,
        "bytes": len(multipart([A, instance("1.2.3.2"), b"rubbish"])),
        "sop_instance_uids": ["1.2.3.1", "1.2.3.2", None],
        "stored": 1,
        "status": 202,
        "dropped": None,
        "rule": rule,
        "refused": None,
    }
    assert [(failure["sop_instance_uid"], failure["reason"]) for failure in failures] == [
        ("1.2.3.1", "0xA700"),
        (None, "0xC000"),
    ]
    assert "expected DICM" in failures[1]["explanation"]
