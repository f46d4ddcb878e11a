"""The processes as users start them: honcho and the Procfile."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from common.records import State
from sandbox.running import running_sandbox
from support.pipeline import ROOT, Pipeline, wait_for
from support.programs import needs_dcmtk
from support.samples import make_instance


@needs_dcmtk
def test_two_receivers_and_two_uploaders_post_every_instance_exactly_once(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    """`honcho start -c receiver=2,uploader=2`: several senders at once, each instance posted once, a clean stop."""
    with running_sandbox(tmp_path / "sandbox") as sandbox:
        pipeline = make_pipeline(sandbox.url)
        uids = set()
        for sender in range(4):
            for number in range(50):
                uids.add(make_instance(tmp_path / f"sender{sender}" / f"{number}.dcm"))
        log = tmp_path / "honcho.log"
        with open(log, "wb") as output:
            honcho = subprocess.Popen(
                [sys.executable, "-m", "honcho", "start", "-c", "receiver=2,uploader=2"],
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "STOWGATE_CONFIG": str(pipeline.ini),
                    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                },
            )
        try:
            wait_for(lambda: log.read_text().count("listening") == 2 and log.read_text().count("delivering") == 2)
            senders = [
                subprocess.Popen(
                    ["dcmsend", "--scan-directories", "127.0.0.1", str(pipeline.port), tmp_path / f"sender{n}"]
                )
                for n in range(4)
            ]
            assert [sender.wait(60) for sender in senders] == [0, 0, 0, 0]
            wait_for(lambda: len(sandbox.instances()) == 200)
            pipeline.wait_empty()
        finally:
            honcho.send_signal(signal.SIGINT)
            honcho.wait(20)
        assert {one["sop_instance_uid"]: one["posts"] for one in sandbox.instances()} == dict.fromkeys(uids, 1)
        assert pipeline.counts() == {State.INCOMING: 0, State.SENT: 200, State.QUARANTINE: 0, State.REMOVED: 0}
        # Both of a kind had work to do; the kernel spreads connections, so this holds for uploaders only.
        assert {name for name in ("uploader.1", "uploader.2") if f"{name} | " in log.read_text()} == {
            "uploader.1",
            "uploader.2",
        }
        assert log.read_text().count("stopped") >= 2
