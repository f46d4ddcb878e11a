"""No identifying value in any output with default settings, on any path."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from common.records import State
from sandbox.running import running_sandbox
from support.pipeline import Pipeline, wait_for
from support.samples import make_instance

MARKS = ("Canary", "Zephyrine", "PID-88417", "19580229", "ACC-5501", "Quillfeather")
MARKED = {
    "patient_name": "Canary^Zephyrine",
    "patient_id": "PID-88417",
    "PatientBirthDate": "19580229",
    "AccessionNumber": "ACC-5501",
    "ReferringPhysicianName": "Quillfeather^Ada",
}
# What an archive might quote back: the worst case for a sidecar.
ECHO = (
    "Patient CANARY, Zephyrine (PID-88417, born 19580229) conflicts with Canary^Zephyrine; ACC-5501; Quillfeather^Ada"
)


def associate(port: int, **options: str) -> object:
    ae = AE(ae_title="MARKED")
    ae.add_requested_context(CTImageStorage)
    return ae.associate("127.0.0.1", port, **options)


def send(port: int, path: Path, **changes: str) -> int:
    """C-STORE a file; the status. `changes` go into the command, not into the dataset."""
    import pydicom  # noqa: PLC0415

    ae = AE(ae_title="MARKED")
    dataset = pydicom.dcmread(path)
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate("127.0.0.1", port)
    try:
        if changes:
            dataset.SOPInstanceUID = changes["sop_instance_uid"]
        return int(association.send_c_store(dataset).Status)
    finally:
        association.release()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_marked_patients_leave_no_mark_in_logs_sidecars_or_errors(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path, log_format: str
) -> None:
    """Marked patients go through every path, failing ones included; no mark is in a log or a sidecar."""
    with running_sandbox(tmp_path / "sandbox") as sandbox:
        pipeline = make_pipeline(
            sandbox.url,
            logging={"format": log_format, "level": "DEBUG"},
            uploader={"max_attempts": 2, "batch_instances": 1},
        )
        pipeline.start("receiver")
        uploader = pipeline.start("uploader")
        prepared = tmp_path / "prepared"

        # Sent plainly, by C-STORE and by hand under the patient's own name.
        make_instance(prepared / "plain.dcm", **MARKED)
        assert send(pipeline.port, prepared / "plain.dcm") == 0
        make_instance(prepared / "by-hand.dcm", **MARKED)
        shutil.copy(prepared / "by-hand.dcm", pipeline.spool.incoming / "Canary^Zephyrine PID-88417.dcm")

        # Refused with an answer that quotes the patient, never confirmed, failing with a reason, killing the request.
        rules = (
            {"status": 409, "body": ECHO},
            {"answer": "omit"},
            {"fail": "0xA900"},
            {"status": 500, "body": ECHO},
            {"drop": "during"},
            {"answer": "html"},
        )
        for number, rule in enumerate(rules):
            uid = make_instance(prepared / f"refused-{number}.dcm", **MARKED)
            sandbox.add_rule({"uid": uid, **rule})
            assert send(pipeline.port, prepared / f"refused-{number}.dcm") == 0

        # No instances: a text, a cut file and a link, all named after the patient; broken values in the dataset.
        (pipeline.spool.incoming / "Canary.txt").write_text("Zephyrine Canary, PID-88417")
        cut = (prepared / "plain.dcm").read_bytes()[:-50]
        (pipeline.spool.incoming / "Zephyrine.dcm").write_bytes(cut)
        (pipeline.spool.incoming / "Canary.lnk").symlink_to("/nowhere/Canary")
        broken = make_instance(prepared / "broken.dcm", **MARKED)
        content = (prepared / "broken.dcm").read_bytes()
        (pipeline.spool.incoming / "broken.dcm").write_bytes(content.replace(b"19580229", b"Canary  "))

        # What a sender can do wrong: another UID in the command, a title that is the patient's.
        make_instance(prepared / "other.dcm", **MARKED)
        assert send(pipeline.port, prepared / "plain.dcm", sop_instance_uid=str(generate_uid())) == 0

        wait_for(lambda: broken in {one["sop_instance_uid"] for one in sandbox.instances()})
        # When only instances are left that the archive chokes on, it takes another one to tell them from an outage.
        wait_for(lambda: len(pipeline.incoming()) <= 2)
        make_instance(prepared / "last.dcm", **MARKED)
        assert send(pipeline.port, prepared / "last.dcm") == 0
        pipeline.wait_empty(30)
        wait_for(lambda: len(pipeline.quarantined()) == len(rules) + 3)
        assert pipeline.counts()[State.INCOMING] == 0
        pipeline.stop()
        assert uploader.log()

        outputs = {path.name: path.read_text() for path in pipeline.folder.glob("*.log")}
        for path in pipeline.spool.quarantine.path.glob("*.json"):
            outputs[path.name] = json.dumps(json.loads(path.read_text()), ensure_ascii=False)
        assert len(outputs) == 2 + len(rules) + 3
        found = [
            (os.path.basename(name), mark)
            for name, text in outputs.items()
            for mark in MARKS
            if mark.lower() in text.lower()
        ]
        assert found == []
        assert any("[redacted]" in text for text in outputs.values())
