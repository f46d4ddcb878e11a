"""Files that people put into incoming/ by hand, and what becomes of them."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from common.records import Cause, Event, State
from sandbox.running import RunningSandbox
from support.pipeline import Pipeline, wait_for
from support.programs import needs_rsync
from support.samples import bundled_folder, make_instance

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def pipeline(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> Pipeline:
    """An uploader that is delivering to a sandbox."""
    made = make_pipeline(sandbox.url)
    made.start("uploader")
    return made


def uids(sandbox: RunningSandbox) -> set[str]:
    return {one["sop_instance_uid"] for one in sandbox.instances()}


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", source, target], check=True)


def move(source: Path, target: Path) -> None:
    subprocess.run(["mv", source, target], check=True)


def rsync(source: Path, target: Path) -> None:
    subprocess.run(["rsync", "-a", source, target], check=True)


def hard_link(source: Path, target: Path) -> None:
    os.link(source, target / source.name)


@pytest.mark.parametrize(
    "put", [copy, move, pytest.param(rsync, marks=needs_rsync), hard_link], ids=lambda put: put.__name__
)
def test_a_dropped_file_is_delivered_once_and_removed(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path, put: Callable[[Path, Path], None]
) -> None:
    """A DICOM file put into incoming/ by cp, mv, rsync or a hard link is posted once, unchanged, and leaves."""
    source = tmp_path / "scan.dcm"
    uid = make_instance(source)
    content = source.read_bytes()
    put(source, pipeline.spool.incoming)
    pipeline.wait_empty()
    assert [(one["sop_instance_uid"], one["posts"]) for one in sandbox.instances()] == [(uid, 1)]
    assert sandbox.instance(uid) == content
    (row,) = pipeline.rows()
    assert (row.file_name, row.state, row.sop_instance_uid, row.attempts) == ("scan.dcm", State.SENT, uid, 1)
    with pipeline.ledger() as ledger:
        assert [event.event for event in ledger.events("scan.dcm")] == [Event.ADOPTED, Event.SENT]


@pytest.mark.parametrize("how", ["cp", "mv"])
def test_a_dropped_folder_is_delivered_whole_and_removed(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path, how: str
) -> None:
    """A folder of folders, copied or moved in, is delivered file by file, and its empty folders go too."""
    expected = {make_instance(tmp_path / "study" / f"series{n % 3}" / f"image {n}.dcm") for n in range(30)}
    command = ["cp", "-r"] if how == "cp" else ["mv"]
    subprocess.run([*command, tmp_path / "study", pipeline.spool.incoming], check=True)
    pipeline.wait_empty()
    assert uids(sandbox) == expected
    assert all(one["posts"] == 1 for one in sandbox.instances())
    wait_for(lambda: not list(pipeline.spool.incoming.iterdir()), what="empty folders removed")


@pytest.mark.parametrize("pause", [0.2, 1.5], ids=["shorter than settle_seconds", "longer than settle_seconds"])
def test_a_slow_writer_is_waited_for(pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path, pause: float) -> None:
    """A file that is written slowly, pausing even longer than settle_seconds, is delivered once and complete."""
    uid = make_instance(tmp_path / "slow.dcm", PixelData=bytes(16 * 16), ImageComments="x" * 4000)
    content = (tmp_path / "slow.dcm").read_bytes()
    with open(pipeline.spool.incoming / "slow.dcm", "wb") as file:
        for start in range(0, len(content), len(content) // 3 + 1):
            file.write(content[start : start + len(content) // 3 + 1])
            file.flush()
            time.sleep(pause)
            assert uids(sandbox) <= {uid}
            assert not pipeline.quarantined()
    pipeline.wait_empty()
    assert sandbox.instance(uid) == content
    assert not pipeline.quarantined()


def test_a_whole_file_that_stays_open_is_taken_when_it_is_quiet(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """A complete file whose writer never closes it is delivered after settle_seconds without a change."""
    uid = make_instance(tmp_path / "open.dcm")
    with open(pipeline.spool.incoming / "open.dcm", "wb") as file:
        file.write((tmp_path / "open.dcm").read_bytes())
        file.flush()
        wait_for(lambda: uids(sandbox) == {uid})


def test_what_is_no_storable_instance_goes_to_quarantine_with_its_cause(pipeline: Pipeline) -> None:
    """A text file, a cut file, a DICOMDIR, an empty file, a link and a FIFO each get their cause, beside the file."""
    incoming = pipeline.spool.incoming
    (incoming / "notes.txt").write_text("call me back")
    (incoming / "empty.dcm").touch()
    whole = Path(str(get_testdata_file("CT_small.dcm"))).read_bytes()
    (incoming / "cut.dcm").write_bytes(whole[:30000])
    shutil.copy(bundled_folder() / "dicomdirtests" / "DICOMDIR", incoming)
    (incoming / "link.dcm").symlink_to(bundled_folder() / "CT_small.dcm")
    os.mkfifo(incoming / "fifo")
    expected = {
        "notes.txt": Cause.NOT_DICOM,
        "empty.dcm": Cause.NOT_DICOM,
        "cut.dcm": Cause.TRUNCATED,
        "DICOMDIR": Cause.NOT_STORABLE,
        "link.dcm": Cause.NOT_A_FILE,
        "fifo": Cause.NOT_A_FILE,
    }
    pipeline.wait_empty()
    wait_for(lambda: pipeline.quarantined() == set(expected))
    for name, cause in expected.items():
        reason = json.loads((pipeline.spool.quarantine.path / f"{name}.json").read_text())
        assert (reason["cause"], reason["attempts"], reason["http_status"]) == (cause, 0, None)
    assert (pipeline.spool.quarantine.path / "link.dcm").is_symlink()
    assert {row.file_name: (row.state, row.cause) for row in pipeline.rows()} == {
        name: (State.QUARANTINE, cause) for name, cause in expected.items()
    }


def test_names_that_are_not_ours_to_touch_stay(pipeline: Pipeline, tmp_path: Path) -> None:
    """Names that start with a dot and *.part stay where they are, for as long as they have these names."""
    make_instance(tmp_path / "a.dcm")
    for name in (".hidden.dcm", "copying.part"):
        shutil.copy(tmp_path / "a.dcm", pipeline.spool.incoming / name)
    make_instance(tmp_path / "b.dcm")
    shutil.copy(tmp_path / "b.dcm", pipeline.spool.incoming)
    wait_for(lambda: len(pipeline.incoming()) == 2)
    time.sleep(3)  # longer than a rescan
    assert {path.name for path in pipeline.incoming()} == {".hidden.dcm", "copying.part"}
    (pipeline.spool.incoming / "copying.part").rename(pipeline.spool.incoming / "copying.dcm")
    wait_for(lambda: {path.name for path in pipeline.incoming()} == {".hidden.dcm"})


def test_a_release_from_quarantine_is_tried_again_from_a_clean_slate(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """`mv quarantine/X incoming/` is all it takes: X is tried again, its sidecar goes, its history stays."""
    uid = make_instance(tmp_path / "x.dcm")
    sandbox.add_rule(f"uid={uid},fail=0xA900")
    shutil.copy(tmp_path / "x.dcm", pipeline.spool.incoming)
    wait_for(lambda: pipeline.quarantined() == {"x.dcm"})
    reason = json.loads((pipeline.spool.quarantine.path / "x.dcm.json").read_text())
    assert (reason["cause"], reason["failure_reason"], reason["attempts"]) == (Cause.REFUSED, 0xA900, 1)

    sandbox.clear_rules()
    subprocess.run(["mv", pipeline.spool.quarantine.path / "x.dcm", pipeline.spool.incoming], check=True)
    wait_for(lambda: uids(sandbox) == {uid})
    pipeline.wait_empty()
    assert list(pipeline.spool.quarantine.path.iterdir()) == []
    (row,) = pipeline.rows()
    assert (row.state, row.cause, row.attempts) == (State.SENT, Cause.NONE, 1)
    with pipeline.ledger() as ledger:
        history = [event.event for event in ledger.events("x.dcm")]
    assert history == [Event.ADOPTED, Event.QUARANTINED, Event.RELEASED, Event.SENT]


def test_a_file_that_changes_while_it_is_sent_is_sent_again(
    pipeline: Pipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """A file that is replaced during its delivery is not deleted by the proof for its old content."""
    first = make_instance(tmp_path / "first.dcm")
    second = make_instance(tmp_path / "second.dcm")
    sandbox.add_rule("first=1,delay=2")
    shutil.copy(tmp_path / "first.dcm", pipeline.spool.incoming / "scan.dcm")
    wait_for(lambda: sandbox.rules()[0]["hits"])
    os.replace(tmp_path / "second.dcm", pipeline.spool.incoming / "scan.dcm")
    wait_for(lambda: uids(sandbox) == {first, second})
    pipeline.wait_empty()
    assert not pipeline.quarantined()
    assert pipeline.rows()[0].sop_instance_uid == second


def test_a_file_taken_away_is_recorded_as_removed(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """A file that a person takes out of incoming/ during an outage is removed in the ledger, and nothing is sent."""
    sandbox.add_rule("status=503")
    pipeline = make_pipeline(sandbox.url)
    pipeline.start("uploader")
    make_instance(tmp_path / "a.dcm")
    shutil.copy(tmp_path / "a.dcm", pipeline.spool.incoming)
    wait_for(pipeline.rows)
    (pipeline.spool.incoming / "a.dcm").unlink()
    wait_for(lambda: pipeline.rows()[0].state is State.REMOVED)
    assert sandbox.instances() == []
