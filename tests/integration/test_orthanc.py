"""The real chain: DCMTK sends, Stowgate keeps and delivers, Orthanc ends up holding the instances."""

import json
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pydicom
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from common.part10 import read_part10
from common.records import State
from support.orthanc import Orthanc
from support.pipeline import Pipeline, wait_for
from support.programs import needs_dcmtk, needs_orthanc
from support.samples import make_instance, storable_files

pytestmark = [needs_dcmtk, needs_orthanc]
PADDING = 0xFFFCFFFC  # Data Set Trailing Padding
MakePipeline = Callable[..., Pipeline]
MakeOrthanc = Callable[..., Orthanc]


def dcmsend(pipeline: Pipeline, *arguments: str | Path, report: Path | None = None) -> str:
    """Send with DCMTK's dcmsend; its output."""
    command = ["dcmsend", "-v", "-aec", "STOWGATE", "127.0.0.1", str(pipeline.port)]
    if report is not None:
        command += ["--create-report-file", str(report)]
    done = subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)
    return done.stdout + done.stderr


def values(dataset: pydicom.Dataset) -> dict[int, object]:
    """The values of a dataset, without what DCMTK makes anew: group lengths, padding, the VR of pixel data."""
    return {
        int(element.tag): element.value for element in dataset if element.tag.element != 0 and element.tag != PADDING
    }


def identity(file: Path) -> tuple[str, str]:
    with open(file, "rb") as stream:
        instance = read_part10(stream, file.stat().st_size)
    return instance.sop_instance_uid, instance.transfer_syntax_uid


def test_every_bundled_file_arrives_unchanged_or_is_quarantined_with_the_reason(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc, tmp_path: Path
) -> None:
    """All storable files of pydicom, sent in one go, are in Orthanc, equal, or quarantined if it refuses them."""
    orthanc = make_orthanc()
    reference = make_orthanc()
    pipeline = make_pipeline(orthanc.url)
    pipeline.start("receiver")
    pipeline.start("uploader")
    # Of files that share a SOP Instance UID an archive can hold only one.
    files = {identity(file)[0]: file for file in storable_files()}
    folder = tmp_path / "to-send"
    folder.mkdir()
    for number, file in enumerate(files.values()):
        shutil.copy(file, folder / f"{number:03d}.dcm")

    report = tmp_path / "report.txt"
    output = dcmsend(pipeline, "--scan-directories", folder, report=report)
    acknowledged = output.count("C-STORE Response (Success)") or output.count("Received C-STORE Response (Success)")
    pipeline.wait_empty(90)
    rows = pipeline.rows()
    assert acknowledged == len(rows) > 100, output[-3000:]
    assert all(row.state in {State.SENT, State.QUARANTINE} for row in rows)

    held = orthanc.instances()
    for row in rows:
        original = files[row.sop_instance_uid]
        uid, transfer_syntax_uid = identity(original)
        if row.state is State.QUARANTINE:
            kept = pipeline.spool.quarantine.path / row.file_name
            assert reference.post_instance(kept.read_bytes()) >= 400, f"Orthanc takes {original.name}"
            reason = json.loads(kept.with_name(kept.name + ".json").read_text())
            assert reason["cause"] == row.cause.value == "refused"
            assert reason["http_status"] == 400
            continue
        stored = pydicom.dcmread(BytesIO(orthanc.file(held[uid])))
        sent = pydicom.dcmread(original)
        assert stored.file_meta.TransferSyntaxUID == row.transfer_syntax_uid
        # dcmsend itself converts between uncompressed transfer syntaxes; compressed ones it leaves alone.
        assert row.transfer_syntax_uid == transfer_syntax_uid or {row.transfer_syntax_uid, transfer_syntax_uid} <= {
            ExplicitVRLittleEndian,
            ExplicitVRBigEndian,
            ImplicitVRLittleEndian,
            DeflatedExplicitVRLittleEndian,
        }
        if row.transfer_syntax_uid != transfer_syntax_uid:
            for dataset in (stored, sent):
                dataset.pop("PixelData", None)  # dcmsend has swapped its bytes
        assert values(stored) == values(sent), original.name
        assert row.calling_ae_title == "DCMSEND"
        assert row.called_ae_title == "STOWGATE"
        assert row.peer_address == "127.0.0.1"
        assert row.patient_id == str(sent.get("PatientID", "") or "")
        assert row.sop_class_uid == str(sent.SOPClassUID)
        assert row.study_instance_uid == str(sent.get("StudyInstanceUID", "") or "")
        assert row.received_at < (row.settled_at or "")


def test_an_orthanc_that_is_stopped_during_a_transfer_costs_nothing(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc, tmp_path: Path
) -> None:
    """Orthanc stops while hundreds of instances come in: none is quarantined, no attempt spent, all arrive later."""
    orthanc = make_orthanc()
    pipeline = make_pipeline(orthanc.url)
    pipeline.start("receiver")
    uploader = pipeline.start("uploader")
    first = {make_instance(tmp_path / "first" / f"{number}.dcm") for number in range(200)}
    second = {make_instance(tmp_path / "second" / f"{number}.dcm") for number in range(200)}
    command = ["dcmsend", "--scan-directories", "127.0.0.1", str(pipeline.port)]
    with subprocess.Popen([*command, str(tmp_path / "first")]) as sender:
        wait_for(lambda: len(orthanc.instances()) > 20)
        orthanc.stop()
        assert sender.wait(60) == 0
    subprocess.run([*command, str(tmp_path / "second")], check=True, timeout=60)
    uploader.wait_for_line("destination paused")
    waiting = [row for row in pipeline.rows() if row.state is State.INCOMING]
    assert waiting
    assert all(row.attempts == 0 for row in waiting)
    assert not pipeline.quarantined()
    orthanc.start()
    pipeline.wait_empty()
    assert set(orthanc.instances()) == first | second
    assert pipeline.counts() == {State.INCOMING: 0, State.SENT: 400, State.QUARANTINE: 0, State.REMOVED: 0}
    assert all(row.attempts == 1 for row in pipeline.rows())


def test_one_poison_instance_among_twenty_is_quarantined_with_orthancs_reason(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc, tmp_path: Path
) -> None:
    """Orthanc answers 400 to a whole request for one part that it cannot parse: nineteen arrive all the same."""
    orthanc = make_orthanc()
    pipeline = make_pipeline(orthanc.url, uploader={"threads": 1})
    pipeline.spool.prepare()
    uids = {make_instance(pipeline.spool.incoming / f"{number}.dcm") for number in range(19)}
    poison = next(file for file in storable_files() if file.name == "SC_rgb_jpeg.dcm")
    shutil.copy(poison, pipeline.spool.incoming / "poison.dcm")
    pipeline.start("uploader")
    pipeline.wait_empty()
    assert set(orthanc.instances()) == uids
    assert pipeline.quarantined() == {"poison.dcm"}
    reason = json.loads((pipeline.spool.quarantine.path / "poison.dcm.json").read_text())
    assert (reason["cause"], reason["http_status"]) == ("refused", 400)
    assert reason["detail"] == "HTTP 400 for this instance alone"
    assert "00081198" in reason["answer"]


def test_a_wrong_password_for_orthanc_is_corrected_and_everything_is_delivered(
    make_pipeline: MakePipeline, make_orthanc: MakeOrthanc, tmp_path: Path
) -> None:
    """Orthanc with authentication: the wrong password pauses, the right one after a restart delivers."""
    orthanc = make_orthanc(users={"stowgate": "right"})
    pipeline = make_pipeline(orthanc.url, destination={"auth": "basic", "username": "stowgate", "password": "wrong"})
    pipeline.spool.prepare()
    uids = {make_instance(pipeline.spool.incoming / f"{number}.dcm") for number in range(10)}
    uploader = pipeline.start("uploader")
    uploader.wait_for_line("does not accept our credentials")
    uploader.stop()
    assert not pipeline.quarantined()
    pipeline.start("uploader", STOWGATE_DESTINATION_PASSWORD="right")
    pipeline.wait_empty()
    assert set(orthanc.instances()) == uids
