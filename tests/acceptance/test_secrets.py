"""No secret and no identifying value in any output while everything fails: canaries over the fault runs."""

import base64
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

from common.records import State
from support.mirror import mirror
from support.pipeline import ROOT, Pipeline, wait_for
from support.samples import make_instance

PATIENT = {
    "patient_name": "Canary^Zephyrine",
    "patient_id": "PID-88417",
    "PatientBirthDate": "19580229",
    "AccessionNumber": "ACC-5501",
}
MARKS = ("canary", "zephyrine", "pid-88417", "19580229", "acc-5501")
DROPPED = ("Canary^Zephyrine.dcm", "Zephyrine Canary")
USER = "gateway-user"
PASSWORD = "Pw-kestrel-7193"
TOKEN = "Tok-kestrel-4482-abcdef"
CLIENT_SECRET = "Cs-kestrel-9035"
API_KEY = "Key-kestrel-6620"
ISSUED = "Issued-kestrel-3371"
SECRETS = {
    "kestrel",  # a part of each of them
    base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode().lower(),
    base64.b64encode(f"client-7:{CLIENT_SECRET}".encode()).decode().lower(),
}

ENVIRONMENTS = {
    "basic": {"USERNAME": USER, "PASSWORD": PASSWORD},
    "bearer": {"TOKEN": TOKEN},
    "oauth2": {"OAUTH2_CLIENT_ID": "client-7", "OAUTH2_CLIENT_SECRET": CLIENT_SECRET},
}
# Put before an entry point: what fails in it carries all that must not be said, in its message and its variables.
CRASHES = {
    "receiver": "import receiver.intake as part\npart.Reception.commit = fail",
    "uploader": "import uploader.delivery as part\npart.judge = fail",
    "uploader's scan": "import uploader.reconciling as part\npart.Reconciling.scan = fail",
}
CRASH = """
import os, runpy, sys
said = "Canary^Zephyrine PID-88417 19580229 ACC-5501 " + os.environ["STOWGATE_DESTINATION_PASSWORD"]
def fail(*arguments, **options):
    quoted = said
    try:
        raise KeyError(quoted)
    except KeyError as error:
        raise RuntimeError("unforeseen: " + quoted) from error
{patch}
sys.argv = ["{module}", "--config", "{ini}"]
runpy.run_module("{module}", run_name="__main__")
"""


def environment(auth: str) -> dict[str, str]:
    """The secrets as an operator gives them."""
    return {
        "STOWGATE_DESTINATION_HEADERS": f"X-Api-Key: {API_KEY}",
        **{f"STOWGATE_DESTINATION_{key}": value for key, value in ENVIRONMENTS[auth].items()},
    }


def marks_in(text: str, *, secrets_only: bool = False) -> set[str]:
    """What a text must not hold, and holds."""
    return {mark for mark in (*SECRETS, *(() if secrets_only else MARKS)) if mark in text.lower()}


def outputs(pipeline: Pipeline) -> Iterator[tuple[str, str]]:
    """Every text that the pipeline has made: logs, sidecars, and the words of the ledger."""
    for path in [*pipeline.folder.glob("*.log"), *pipeline.spool.quarantine.path.glob("*.json")]:
        yield path.name, path.read_text(errors="replace")
    # The ledger knows the patient ID and the name of a dropped file, each in the column made for it, and nothing else.
    with sqlite3.connect(pipeline.spool.ledger) as ledger:
        columns = [
            row[1]
            for row in ledger.execute("PRAGMA table_info (instances)")
            if row[1] not in {"patient_id", "file_name"}
        ]
        for table, names in (("instances", ", ".join(columns)), ("events", "*")):
            rows = ledger.execute(f"SELECT {names} FROM {table}").fetchall()  # noqa: S608 - names of our own
            yield f"table {table}", repr(rows)
    ledger.close()
    for path in pipeline.spool.directory.glob("ledger.db*"):
        raw = path.read_bytes().decode("latin-1")
        for known in (PATIENT["patient_id"], *DROPPED):
            raw = raw.replace(known, "")
        yield path.name, raw


def assert_silent(pipeline: Pipeline) -> None:
    """Nothing of the patient and no secret in any output, and no secret on any command line."""
    found = {name: marks for name, text in outputs(pipeline) if (marks := marks_in(text))}
    assert found == {}
    for process in pipeline.processes:
        if process.popen.poll() is None:
            assert not marks_in(Path(f"/proc/{process.popen.pid}/cmdline").read_text(), secrets_only=True)


def send(port: int, folder: Path, uid: str | None = None) -> int:
    """C-STORE an instance of the marked patient; the status. Its bytes are good, or end inside an element."""
    path = folder / "one.dcm"
    make_instance(path, **PATIENT)
    import pydicom  # noqa: PLC0415

    dataset = pydicom.dcmread(path)
    dataset.SOPInstanceUID = uid or dataset.SOPInstanceUID
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    association = ae.associate("127.0.0.1", port)
    try:
        answer: Dataset = association.send_c_store(dataset)
        return int(answer.Status)
    finally:
        association.release()


@pytest.mark.parametrize("auth", list(ENVIRONMENTS))
def test_an_archive_that_quotes_everything_has_nothing_of_it_kept(
    make_pipeline: Callable[..., Pipeline], tmp_path: Path, auth: str
) -> None:
    """Refusals that quote credentials and dataset, a token endpoint that does, and an outage."""
    with mirror() as archive:
        archive.token = ISSUED
        archive.token_status = 400
        settings: dict[str, object] = {"auth": auth}
        if auth == "oauth2":
            settings["oauth2_token_url"] = f"{archive.url}/token"
        pipeline = make_pipeline(
            archive.url, destination=settings, logging={"level": "DEBUG"}, uploader={"max_attempts": 1}
        )
        pipeline.start("receiver", **environment(auth))
        uploader = pipeline.start("uploader", **environment(auth))
        assert send(pipeline.port, tmp_path) == 0
        uploader.wait_for_line("destination paused")
        archive.token_status = 200
        for status in (401, 500, 409):
            archive.status = status
            wait_for(lambda: archive.requests.get(status), what=f"a request that is answered {status}")  # noqa: B023
        wait_for(lambda: len(pipeline.quarantined()) == 1)
        (pipeline.spool.incoming / DROPPED[0]).write_bytes(b"PID-88417")
        os.mkfifo(pipeline.spool.incoming / DROPPED[1])
        wait_for(lambda: len(pipeline.quarantined()) == 3)
        assert_silent(pipeline)
        archive.close()
        assert send(pipeline.port, tmp_path) == 0
        uploader.wait_for_line("cannot connect")
        assert_silent(pipeline)
        with pipeline.ledger() as ledger:
            assert ledger.counts()[State.QUARANTINE] == 3
        pipeline.stop()
        assert_silent(pipeline)


def test_a_crash_names_no_value_in_its_traceback(make_pipeline: Callable[..., Pipeline], tmp_path: Path) -> None:
    """An error of ours whose message quotes patient and password: its class and lines are said, its message is not."""
    pipeline = make_pipeline("http://127.0.0.1:9/", destination={"auth": "basic"}, logging={"level": "DEBUG"})
    variables = {**os.environ, **environment("basic")}

    def run(module: str, patch: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = pipeline.folder / f"crash-{len(started)}.log"
        script = CRASH.format(patch=patch, module=module, ini=pipeline.ini)
        with open(log, "wb") as output:
            return subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=variables, stderr=output), log

    started: list[subprocess.Popen[bytes]] = []
    try:
        for what, patch in CRASHES.items():
            if what == "uploader":
                make_instance(pipeline.spool.incoming / "dropped.dcm", **PATIENT)
            process, log = run(what.partition("'")[0], patch)
            started.append(process)
            if what == "receiver":
                wait_for(lambda: "listening" in log.read_text())  # noqa: B023
                assert send(pipeline.port, tmp_path) != 0
            wait_for(lambda: "RuntimeError" in log.read_text(), what=f"the crash of the {what}")  # noqa: B023
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    texts = {path.name: path.read_text() for path in pipeline.folder.glob("crash-*.log")}
    assert len(texts) == len(CRASHES)
    assert {name: marks_in(text) for name, text in texts.items() if marks_in(text)} == {}


@pytest.mark.parametrize(
    "settings",
    [
        {"auth": "basic", "username": "a:b", "password": f"{PASSWORD}\x07"},
        {"auth": "bearer", "token": f"{TOKEN} {TOKEN}"},
        {"auth": "bearer", "token": TOKEN, "token_file": "/nowhere", "password": PASSWORD},
        {"auth": "none", "headers": f"X-Api-Key {API_KEY}"},
        {"auth": "none", "headers": f"X Api Key: {API_KEY}; : {API_KEY}"},
        {
            "auth": "oauth2",
            "oauth2_client_secret": f"{CLIENT_SECRET}\x1b",
            "oauth2_token_url": f"ftp://u:{PASSWORD}@h/",
        },
        {"auth": "none", "url": f"https://user:{PASSWORD}@archive.example/dicom-web"},
        {"auth": "none", "proxy": f"socks9://user:{PASSWORD}@:x"},
        {"auth": "none", "pasword": PASSWORD},
    ],
    ids=["password", "token", "two tokens", "header", "header name", "oauth2", "url", "proxy", "misspelt key"],
)
@pytest.mark.parametrize("module", ["receiver", "uploader"])
def test_a_broken_configuration_is_reported_without_its_secrets(
    tmp_path: Path, module: str, settings: dict[str, str]
) -> None:
    """Section, key and what was expected are named; what was found is not shown where it can be a secret."""
    ini = tmp_path / "pipeline.ini"
    ini.write_text("[destination]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    ended = subprocess.run(
        [sys.executable, "-m", module, "--config", str(ini)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert "[destination]" in ended.stderr
    assert not marks_in(ended.stdout + ended.stderr)
