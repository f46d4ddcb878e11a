"""nginx in front of the archive, with its limit of 1 MB: what fits goes, what does not is found out and kept."""

import json
import os
from collections.abc import Callable

from common.records import Cause, State
from sandbox.running import RunningSandbox
from support.nginx_front import nginx_front
from support.pipeline import Pipeline
from support.samples import make_instance


def test_a_body_that_nginx_refuses(make_pipeline: Callable[..., Pipeline], sandbox: RunningSandbox) -> None:
    """Twenty instances that fit are delivered though their batch does not; one that never fits is kept, and why."""
    with nginx_front(sandbox.port) as origin:
        pipeline = make_pipeline(f"{origin}/dicom-web", uploader={"threads": 1})
        pipeline.spool.prepare()
        aside = pipeline.folder / "aside.dcm"
        uids = set()
        for number in range(20):
            uids.add(make_instance(aside, Rows=500, Columns=600, PixelData=bytes(300_000)))
            os.replace(aside, pipeline.spool.incoming / f"{number}.dcm")
        make_instance(aside, Rows=1000, Columns=2000, PixelData=bytes(2_000_000))
        os.replace(aside, pipeline.spool.incoming / "big.dcm")
        pipeline.start("uploader")
        pipeline.wait_empty()
    assert {entry["sop_instance_uid"] for entry in sandbox.instances()} == uids
    assert pipeline.quarantined() == {"big.dcm"}
    (big,) = [row for row in pipeline.rows() if row.file_name == "big.dcm"]
    assert (big.state, big.cause, big.http_status) == (State.QUARANTINE, Cause.TOO_LARGE, 413)
    reason = json.loads((pipeline.spool.quarantine.path / "big.dcm.json").read_text())
    assert "nginx" in reason["answer"]
