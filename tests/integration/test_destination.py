"""What the uploader makes of a destination that is away, refuses it, or chokes on one instance."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from common.records import Cause, Event, State
from sandbox.running import RunningSandbox, running_sandbox
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]


def drop(pipeline: Pipeline, tmp_path: Path, count: int) -> list[str]:
    """Prepare instances aside and drop them all at once; their UIDs, by name 0.dcm, and so on."""
    folder = tmp_path / "prepared"
    shutil.rmtree(folder, ignore_errors=True)
    uids = [make_instance(folder / f"{number}.dcm") for number in range(count)]
    pipeline.spool.prepare()
    for number in range(count):
        shutil.copy(folder / f"{number}.dcm", pipeline.spool.incoming)
    return uids


def sent(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("fail=0xC000", (Cause.REFUSED, 0xC000)),
        ("status=400", (Cause.REFUSED, None)),
        ("status=413", (Cause.TOO_LARGE, None)),
        ("status=409", (Cause.CONFLICT, None)),
        ("answer=omit", (Cause.UNCONFIRMED, None)),
        ("status=500", (Cause.GAVE_UP, None)),
        ("drop=during", (Cause.GAVE_UP, None)),
        ("hang=30", (Cause.GAVE_UP, None)),
        ("fail=0xA700", (Cause.GAVE_UP, 0xA700)),
    ],
    ids=lambda value: str(value) if isinstance(value, str) else None,
)
def test_one_poison_instance_in_twenty_harms_no_other(
    make_pipeline: MakePipeline,
    sandbox: RunningSandbox,
    tmp_path: Path,
    rule: str,
    expected: tuple[Cause, int | None],
) -> None:
    """Whatever one instance of a batch provokes, nineteen are sent, and it ends in quarantine with the reason."""
    pipeline = make_pipeline(
        sandbox.url,
        destination={"read_timeout_seconds": 1},
        uploader={"threads": 1, "max_attempts": 3, "backoff_initial_seconds": 0.1, "backoff_max_seconds": 0.5},
    )
    uids = drop(pipeline, tmp_path, 20)
    sandbox.add_rule(f"uid={uids[7]},{rule}")
    pipeline.start("uploader")
    pipeline.wait_empty(90)
    wait_for(lambda: pipeline.quarantined() == {"7.dcm"})
    assert sent(sandbox) >= set(uids) - {uids[7]}
    reason = json.loads((pipeline.spool.quarantine.path / "7.dcm.json").read_text())
    assert (reason["cause"], reason["failure_reason"]) == expected
    assert all(row.attempts == 1 for row in pipeline.rows() if row.state is State.SENT)
    assert pipeline.counts() == {State.INCOMING: 0, State.SENT: 19, State.QUARANTINE: 1, State.REMOVED: 0}


def test_an_outage_spends_no_attempts_and_ends_by_itself(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """While nothing listens, files wait with 0 attempts; when the destination is there they go, without a restart."""
    with running_sandbox(tmp_path / "sandbox") as first:
        port = first.port
    pipeline = make_pipeline(f"http://127.0.0.1:{port}/dicom-web")
    uploader = pipeline.start("uploader")
    uids = drop(pipeline, tmp_path, 30)
    uploader.wait_for_line("destination paused")
    wait_for(lambda: pipeline.counts()[State.INCOMING] > 0)
    assert all(row.attempts == 0 for row in pipeline.rows())
    assert not pipeline.quarantined()
    with running_sandbox(tmp_path / "sandbox", port=port) as second:
        pipeline.wait_empty()
        assert sent(second) == set(uids)
    assert not pipeline.quarantined()
    assert all((row.state, row.attempts) == (State.SENT, 1) for row in pipeline.rows())


@pytest.mark.parametrize("status", [401, 403, 404, 405, 302, 429, 500, 503])
def test_a_destination_that_refuses_everything_is_paused(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path, status: int
) -> None:
    """An answer about the destination pauses it, without attempts or quarantine, until it answers otherwise."""
    rule = sandbox.add_rule(f"status={status}" + (",location=http://127.0.0.1:1/" if status == 302 else ""))
    pipeline = make_pipeline(sandbox.url, uploader={"max_attempts": 1})
    uids = drop(pipeline, tmp_path, 3)
    uploader = pipeline.start("uploader")
    uploader.wait_for_line("destination paused")
    wait_for(lambda: sandbox.rules()[0]["hits"] >= 3)
    assert not pipeline.quarantined()
    assert all(row.attempts == 0 for row in pipeline.rows())
    sandbox.remove_rule(rule)
    pipeline.wait_empty()
    assert sent(sandbox) == set(uids)


def test_a_wrong_password_is_said_in_words_and_cured_by_a_restart(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """A wrong password pauses the destination and is said at most once a minute; corrected, everything is delivered."""
    secret = {"username": "gateway", "password": "right"}
    arguments = ("--username", "gateway", "--password", "right")
    with running_sandbox(tmp_path / "sandbox", *arguments, auth=("gateway", "right")) as sandbox:
        pipeline = make_pipeline(sandbox.url, destination={"auth": "basic", **secret, "password": "wrong"})
        uids = drop(pipeline, tmp_path, 5)
        uploader = pipeline.start("uploader")
        uploader.wait_for_line("does not accept our credentials")
        wait_for(lambda: sandbox.summary()["requests"] >= 4, what="several probes")
        assert uploader.log().count("destination paused") == 1
        assert "wrong" not in uploader.log()
        assert not pipeline.quarantined()
        uploader.stop()
        pipeline.configure(destination={"password": "right"})
        pipeline.start("uploader")
        pipeline.wait_empty()
        assert sent(sandbox) == set(uids)


def test_retry_after_is_honoured(make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path) -> None:
    """After a 503 with Retry-After nothing is sent before that time is over."""
    sandbox.add_rule("first=1,status=503,retry_after=3")
    pipeline = make_pipeline(sandbox.url)
    drop(pipeline, tmp_path, 1)
    pipeline.start("uploader")
    pipeline.wait_empty()
    first, second = sandbox.requests()
    assert second["time"] > first["time"]
    assert "next_probe_seconds=3" in pipeline.logs() or "next_probe_seconds=2.9" in pipeline.logs()


def test_requests_become_as_small_as_the_destination_takes_them(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """A proxy that answers 413 to more than twelve instances is asked too much once, not with every batch."""
    pipeline = make_pipeline(sandbox.url, uploader={"threads": 1, "batch_instances": 20})
    uids = drop(pipeline, tmp_path, 100)
    size = max(path.stat().st_size for path in pipeline.incoming())
    sandbox.add_rule(f"min_bytes={12 * size},status=413")
    uploader = pipeline.start("uploader")
    pipeline.wait_empty()
    assert sent(sandbox) == set(uids)
    assert [one["status"] for one in sandbox.requests()].count(413) == 1
    assert uploader.log().count("sending smaller ones") == 1
    assert not pipeline.quarantined()
    assert all((row.state, row.attempts) == (State.SENT, 1) for row in pipeline.rows())


def test_requests_become_as_few_as_the_destination_takes_at_a_time(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """An archive that answers 429 to the third request at a time gets two; nothing is charged or given up."""
    sandbox.add_rule("min_requests=3,status=429")
    sandbox.add_rule("delay=0.1")
    pipeline = make_pipeline(sandbox.url, uploader={"threads": 4, "batch_instances": 2, "max_attempts": 1})
    uids = drop(pipeline, tmp_path, 100)
    uploader = pipeline.start("uploader")
    pipeline.wait_empty()
    assert sent(sandbox) == set(uids)
    assert 1 <= [one["status"] for one in sandbox.requests()].count(429) <= 4
    assert "sending fewer requests at a time requests=2" in uploader.log()
    assert not pipeline.quarantined()
    assert all((row.state, row.attempts) == (State.SENT, 1) for row in pipeline.rows())


@pytest.mark.parametrize("media", ["json", "xml"])
def test_both_forms_of_an_answer_are_read(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path, media: str
) -> None:
    """A Store Instances Response in JSON or XML is proof all the same, and its warnings are recorded."""
    sandbox.add_rule(f"media={media},warn=0xB007")
    pipeline = make_pipeline(sandbox.url)
    drop(pipeline, tmp_path, 2)
    pipeline.start("uploader")
    pipeline.wait_empty()
    assert {(row.state, row.cause) for row in pipeline.rows()} == {(State.SENT, Cause.WARNING)}
    with pipeline.ledger() as ledger:
        (event,) = [event for event in ledger.events("0.dcm") if event.event is Event.SENT]
    assert "B007" in event.detail


def test_an_instance_that_is_there_already_is_sent(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """FailureReason 0111 means that the archive has it: sent, recorded as duplicate."""
    sandbox.add_rule("fail=0x0111")
    pipeline = make_pipeline(sandbox.url)
    drop(pipeline, tmp_path, 1)
    pipeline.start("uploader")
    pipeline.wait_empty()
    assert [(row.state, row.cause) for row in pipeline.rows()] == [(State.SENT, Cause.DUPLICATE)]


def test_two_uploaders_post_each_file_exactly_once(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """Two uploaders on one spool share the work by claims: every instance is posted exactly once."""
    pipeline = make_pipeline(sandbox.url, uploader={"batch_instances": 3})
    pipeline.start("uploader")
    pipeline.start("uploader")
    uids = drop(pipeline, tmp_path, 200)
    pipeline.wait_empty()
    assert {one["sop_instance_uid"]: one["posts"] for one in sandbox.instances()} == dict.fromkeys(uids, 1)
    assert {process.log().count(" sent ") > 0 for process in pipeline.processes} == {True}


def test_a_lost_ledger_is_rebuilt_from_the_files(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """With the ledger deleted while stopped, what is owed is delivered and what is in quarantine has its row again."""
    pipeline = make_pipeline(sandbox.url)
    uids = drop(pipeline, tmp_path, 5)
    sandbox.add_rule(f"uid={uids[0]},fail=0xA900")
    uploader = pipeline.start("uploader")
    pipeline.wait_empty()
    sandbox.clear_rules()
    sandbox.add_rule("status=503")
    drop(pipeline, tmp_path, 4)
    uploader.wait_for_line("destination paused")
    uploader.stop()
    for path in pipeline.spool.directory.glob("ledger.db*"):
        path.unlink()
    sandbox.clear_rules()
    pipeline.start("uploader")
    pipeline.wait_empty()
    wait_for(lambda: pipeline.counts()[State.QUARANTINE] == 1)
    assert len(sent(sandbox)) == 8
    (lost,) = [row for row in pipeline.rows() if row.state is State.QUARANTINE]
    assert (lost.file_name, lost.cause, lost.sop_instance_uid) == ("0.dcm", Cause.REFUSED, uids[0])


def test_a_killed_uploader_forgets_nothing(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """SIGKILL in the middle of deliveries: after a restart everything is at the archive, and the ledger agrees."""
    sandbox.add_rule("delay=0.05")
    pipeline = make_pipeline(sandbox.url, uploader={"batch_instances": 2, "threads": 2})
    uids = drop(pipeline, tmp_path, 100)
    for _ in range(4):
        seen = len(sent(sandbox))
        process = pipeline.start("uploader")
        wait_for(lambda seen=seen: len(sent(sandbox)) > seen + 5)
        process.kill()
    pipeline.start("uploader")
    pipeline.wait_empty()
    assert sent(sandbox) == set(uids)
    wait_for(lambda: pipeline.counts()[State.INCOMING] == 0)
    assert pipeline.counts() == {State.INCOMING: 0, State.SENT: 100, State.QUARANTINE: 0, State.REMOVED: 0}
