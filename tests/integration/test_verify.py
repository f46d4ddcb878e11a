"""Duplicates and `verify`, end to end: a real uploader, a real archive, and files that must not be lost."""

import json
import os
import shutil
import ssl
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
import trustme

from common.records import Cause, State
from sandbox.running import RunningSandbox
from support.orthanc import Orthanc
from support.pipeline import Pipeline, wait_for
from support.programs import needs_orthanc
from support.samples import make_instance, storable_files
from support.tls_front import tls_front

MakePipeline = Callable[..., Pipeline]
MakeOrthanc = Callable[..., Orthanc]


def drop(pipeline: Pipeline, name: str, **values: object) -> str:
    """Drop an instance by hand, whole and closed; its UID."""
    aside = pipeline.folder / "aside.dcm"
    uid = make_instance(aside, **values)  # type: ignore[arg-type]
    os.replace(aside, pipeline.spool.incoming / name)
    return uid


def outcome(pipeline: Pipeline, name: str) -> tuple[State, Cause, int]:
    (row,) = [row for row in pipeline.rows() if row.file_name == name]
    return row.state, row.cause, row.attempts


def two_of_one_uid(pipeline: Pipeline, *, different: bool) -> str:
    """Deliver an instance, then drop a second file of its UID, the same or another; waits until both are settled."""
    identity = {"study": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": "1.2.3.4.5"}
    uid = drop(pipeline, "first.dcm", **identity)
    pipeline.start("uploader")
    wait_for(lambda: pipeline.rows() and outcome(pipeline, "first.dcm")[0] is State.SENT)
    drop(pipeline, "second.dcm", **identity, **({"PatientComments": "the other one"} if different else {}))
    wait_for(lambda: len(pipeline.rows()) == 2)
    pipeline.wait_empty()
    return uid


# Each way in which archives treat a UID that is there, and what becomes of the second file: the same, another.
ARCHIVES: dict[tuple[str, str], tuple[tuple[State, Cause], tuple[State, Cause]]] = {
    ("exists=keep", "no"): ((State.SENT, Cause.NONE), (State.SENT, Cause.NONE)),
    ("exists=keep", "query"): ((State.SENT, Cause.NONE), (State.SENT, Cause.NONE)),
    ("exists=keep", "duplicates"): ((State.SENT, Cause.NONE), (State.SENT, Cause.NONE)),
    ("exists=keep", "retrieve"): ((State.SENT, Cause.NONE), (State.QUARANTINE, Cause.CONFLICT)),
    ("exists=replace", "retrieve"): ((State.SENT, Cause.NONE), (State.SENT, Cause.NONE)),
    ("exists=refuse,fail=45070", "no"): ((State.SENT, Cause.DUPLICATE), (State.SENT, Cause.DUPLICATE)),
    ("exists=refuse,fail=45070", "duplicates"): ((State.SENT, Cause.DUPLICATE), (State.QUARANTINE, Cause.CONFLICT)),
    ("exists=refuse,fail=45070", "retrieve"): ((State.SENT, Cause.DUPLICATE), (State.QUARANTINE, Cause.CONFLICT)),
    ("exists=refuse,fail=272", "duplicates"): ((State.SENT, Cause.DUPLICATE), (State.QUARANTINE, Cause.CONFLICT)),
    ("every=2,status=409", "no"): ((State.QUARANTINE, Cause.CONFLICT), (State.QUARANTINE, Cause.CONFLICT)),
    ("every=2,status=409", "duplicates"): ((State.SENT, Cause.DUPLICATE), (State.QUARANTINE, Cause.CONFLICT)),
}


@pytest.mark.parametrize("different", [False, True], ids=["the same", "another"])
@pytest.mark.parametrize(("rule", "verify"), ARCHIVES, ids=str)
def test_a_second_file_of_a_uid(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, rule: str, verify: str, *, different: bool
) -> None:
    """What each value of `verify` makes of an archive that keeps, replaces or refuses what it has."""
    sandbox.add_rule(rule)
    pipeline = make_pipeline(sandbox.url, destination={"verify": verify})
    pipeline.spool.prepare()
    two_of_one_uid(pipeline, different=different)
    assert outcome(pipeline, "second.dcm")[:2] == ARCHIVES[rule, verify][different]
    quarantined = {"second.dcm"} if ARCHIVES[rule, verify][different][0] is State.QUARANTINE else set()
    assert pipeline.quarantined() == quarantined


@pytest.mark.parametrize(("verify", "on"), [("query", "search"), ("retrieve", "retrieve")])
@pytest.mark.parametrize("trouble", ["status=503", "status=403", "drop=before", "answer=html"])
def test_an_archive_that_cannot_be_asked_for_a_while(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, verify: str, on: str, trouble: str
) -> None:
    """While it cannot be asked, every file stays, unharmed and uncharged; then all are sent."""
    rule = sandbox.add_rule(f"on={on},{trouble}")
    pipeline = make_pipeline(sandbox.url, destination={"verify": verify})
    pipeline.spool.prepare()
    uids = {drop(pipeline, f"{number}.dcm") for number in range(10)}
    uploader = pipeline.start("uploader")
    uploader.wait_for_line("destination paused")
    wait_for(lambda: sandbox.rules()[0]["hits"] > 4)
    assert len(pipeline.incoming()) == 10
    assert not pipeline.quarantined()
    assert {row.attempts for row in pipeline.rows()} == {0}
    sandbox.remove_rule(rule)
    pipeline.wait_empty()
    assert {(row.state, row.attempts) for row in pipeline.rows()} == {(State.SENT, 1)}
    assert {entry["sop_instance_uid"] for entry in sandbox.instances()} == uids


@pytest.mark.parametrize(("verify", "on"), [("query", "search"), ("retrieve", "retrieve")])
def test_an_archive_that_says_stored_and_has_nothing(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, verify: str, on: str
) -> None:
    """A 200 that names the instance is believed by `no` only; asked, the archive shows that nothing is there."""
    believed = make_pipeline(sandbox.url)
    pipeline = make_pipeline(sandbox.url, destination={"verify": verify}, uploader={"max_attempts": 2})
    for one in (believed, pipeline):
        one.spool.prepare()
        uid = drop(one, "lost.dcm", SOPInstanceUID="1.2.3.4.5")
    named = json.dumps({"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}})
    sandbox.add_rule({"status": 200, "media": "json", "body": named})
    sandbox.add_rule(f"on={on},delay=0")
    for one in (believed, pipeline):
        one.start("uploader")
        one.wait_empty()
    assert not sandbox.instances()
    assert outcome(believed, "lost.dcm") == (State.SENT, Cause.NONE, 1)
    assert outcome(pipeline, "lost.dcm") == (State.QUARANTINE, Cause.UNCONFIRMED, 2)
    assert sandbox.rules()[1]["seen"] == 6, "three times for each attempt, since an index may lag"


def test_an_index_that_lags_costs_no_attempt(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """An instance that is found a moment later is sent by its first attempt."""
    sandbox.add_rule("first=2,on=search,answer=omit")
    pipeline = make_pipeline(sandbox.url, destination={"verify": "query"})
    pipeline.spool.prepare()
    drop(pipeline, "late.dcm")
    pipeline.start("uploader")
    pipeline.wait_empty()
    assert outcome(pipeline, "late.dcm") == (State.SENT, Cause.NONE, 1)


def test_memory_does_not_grow_with_what_is_retrieved(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """An instance of 300 MB is sent, retrieved and compared by an uploader that never holds it."""
    pipeline = make_pipeline(sandbox.url, destination={"verify": "retrieve"})
    pipeline.spool.prepare()
    drop(pipeline, "big.dcm", Rows=15000, Columns=20000, PixelData=bytes(300_000_000))
    uploader = pipeline.start("uploader")
    pipeline.wait_empty()
    assert outcome(pipeline, "big.dcm") == (State.SENT, Cause.NONE, 1)
    status = Path(f"/proc/{uploader.popen.pid}/status").read_text()
    (peak,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
    assert peak < 150_000, f"{peak} kB"


# A real Orthanc


@needs_orthanc
@pytest.mark.parametrize(
    ("overwrite", "verify", "different", "expected"),
    [
        (False, "retrieve", False, (State.SENT, Cause.NONE)),
        (False, "retrieve", True, (State.QUARANTINE, Cause.CONFLICT)),
        (False, "query", True, (State.SENT, Cause.NONE)),
        (True, "retrieve", True, (State.SENT, Cause.NONE)),
    ],
)
def test_a_second_file_of_a_uid_at_orthanc(  # noqa: PLR0917
    make_pipeline: MakePipeline,
    make_orthanc: MakeOrthanc,
    overwrite: bool,  # noqa: FBT001
    verify: str,
    different: bool,  # noqa: FBT001
    expected: tuple[State, Cause],
) -> None:
    """Orthanc answers the same to the same, to another that it throws away, and to another that it takes."""
    orthanc = make_orthanc(overwrite=overwrite)
    pipeline = make_pipeline(orthanc.url, destination={"verify": verify})
    pipeline.spool.prepare()
    uid = two_of_one_uid(pipeline, different=different)
    assert outcome(pipeline, "second.dcm")[:2] == expected
    held = pydicom.dcmread(BytesIO(orthanc.file(orthanc.instances()[uid])))
    assert ("PatientComments" in held) == (overwrite and different)
    assert pipeline.quarantined() == ({"second.dcm"} if expected[0] is State.QUARANTINE else set())


@needs_orthanc
def test_what_orthanc_gives_back_of_every_bundled_file_is_the_same(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc
) -> None:
    """Whatever the transfer syntax, an instance that Orthanc takes is the same when it is retrieved."""
    orthanc = make_orthanc()
    pipeline = make_pipeline(orthanc.url, destination={"verify": "retrieve"})
    pipeline.spool.prepare()
    seen: set[str] = set()
    for path in storable_files():
        uid = str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
        if uid not in seen:
            shutil.copy(path, pipeline.spool.incoming / path.name)
            seen.add(uid)
    pipeline.start("uploader")
    pipeline.wait_empty(90)
    settled = {(row.state, row.cause) for row in pipeline.rows()}
    assert settled <= {(State.SENT, Cause.NONE), (State.QUARANTINE, Cause.REFUSED)}
    assert pipeline.counts()[State.SENT] == len(orthanc.instances()) > 80


@needs_orthanc
def test_orthanc_with_basic_authentication(make_pipeline: MakePipeline, make_orthanc: MakeOrthanc) -> None:
    """RegisteredUsers: storing, searching and retrieving are done as that user."""
    orthanc = make_orthanc(users={"stowgate": "right"})
    for verify in ("query", "retrieve"):
        credentials = {"auth": "basic", "username": "stowgate", "password": "right"}
        pipeline = make_pipeline(orthanc.url, destination={**credentials, "verify": verify})
        pipeline.spool.prepare()
        uids = {drop(pipeline, f"{number}.dcm") for number in range(10)}
        pipeline.start("uploader")
        pipeline.wait_empty()
        assert {(row.state, row.attempts) for row in pipeline.rows()} == {(State.SENT, 1)}
        assert uids <= set(orthanc.instances())


@needs_orthanc
def test_orthanc_with_https_and_a_private_authority(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc, tmp_path: Path
) -> None:
    """Behind TLS: without the authority the uploader pauses and says why; with it in ca_bundle all is delivered."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    orthanc = make_orthanc(users={"stowgate": "right"})
    with tls_front(orthanc.http_port, context) as origin:
        settings = {"auth": "basic", "username": "stowgate", "password": "right", "verify": "retrieve"}
        pipeline = make_pipeline(f"{origin}/dicom-web", destination=settings)
        pipeline.spool.prepare()
        uids = {drop(pipeline, f"{number}.dcm") for number in range(20)}
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("certificate")
        uploader.stop()
        assert not orthanc.instances()
        assert {row.attempts for row in pipeline.rows()} == {0}
        pipeline.configure(destination={"ca_bundle": tmp_path / "ca.pem"})
        pipeline.start("uploader")
        pipeline.wait_empty()
    assert set(orthanc.instances()) == uids
    assert {(row.state, row.attempts) for row in pipeline.rows()} == {(State.SENT, 1)}
