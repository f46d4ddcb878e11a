"""`check` and `send`: what an operator runs when nothing arrives, on a real spool, against real processes."""

import json
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import trustme

from common.records import State
from sandbox.running import RunningSandbox, running_sandbox
from support.console import Ran, quarantine, run_process
from support.fronts import front
from support.pipeline import ROOT, Pipeline
from support.programs import free_port
from support.samples import make_instance
from support.tls_front import tls_front

MakePipeline = Callable[..., Pipeline]
AWAY = "http://127.0.0.1:9/dicom-web"
ONE, TWO, THREE = (f"{digit * 32}.dcm" for digit in "abc")


def check(pipeline: Pipeline, *arguments: str, **environ: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status, and the findings by their keys."""
    shown = run_process(pipeline, "check", "--json", *arguments, **environ)
    return shown.status, {finding["key"]: finding for finding in shown.document["findings"]}


def asked(pipeline: Pipeline) -> tuple[int, dict[str, object]]:
    """`python -m uploader --check`: its exit status, and what it printed."""
    command = [sys.executable, "-m", "uploader", "--check", "--config", str(pipeline.ini)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, json.loads(ended.stdout)


def test_check_says_that_all_is_as_it_should_be(make_pipeline: MakePipeline, sandbox: RunningSandbox) -> None:
    """The effective configuration, masked, and a line for each thing it looked at; nothing is stored."""
    secret = "s3cret-token"
    pipeline = make_pipeline(sandbox.url, console={"port": free_port()}, destination={"auth": "bearer"})
    environ = {"STOWGATE_DESTINATION_TOKEN": secret}
    pipeline.start("receiver", **environ)
    shown = run_process(pipeline, "check", **environ)
    assert shown.status == 0, shown
    assert "ae_title = STOWGATE" in shown.out
    assert secret not in shown.out + shown.err
    assert "The receiver answers a C-ECHO" in shown.out
    assert "The ledger is whole." in shown.out
    assert "Ledger and files agree: 0 in incoming/, 0 in quarantine/." in shown.out
    assert "the archive" in shown.out.lower()
    assert sandbox.instances() == []


def test_check_on_a_broken_configuration(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Every problem, files that are named and not there among them; exit status 2."""
    pipeline = make_pipeline(AWAY, receiver={"max_pdu": "huge"}, destination={"ca_bundle": tmp_path / "none.pem"})
    shown = run_process(pipeline, "check")
    assert shown.status == 2
    assert "[receiver] max_pdu: expected a size" in shown.err
    assert "[destination] ca_bundle: expected a readable file, found none" in shown.err
    status, findings = check(pipeline)
    assert status == 2
    assert findings["configuration"]["level"] == "error"


def test_check_on_an_archive_that_is_away(make_pipeline: MakePipeline) -> None:
    """It says that it cannot connect; what else is well is said too."""
    pipeline = make_pipeline(AWAY)
    pipeline.spool.prepare()
    status, findings = check(pipeline)
    assert status == 1
    assert findings["archive"]["level"] == "error"
    assert "cannot connect" in findings["archive"]["text"]
    assert findings["port"]["text"].startswith("Nobody listens")
    assert findings["folders"]["level"] == "ok"
    status, findings = check(pipeline, "--no-archive")
    assert status == 0
    assert "archive" not in findings


def test_an_archive_that_wants_other_credentials(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """401 is said in words, by the uploader itself and by check."""
    with running_sandbox(tmp_path / "archive", "--token", "right", "--rule", "on=search,status=401") as archive:
        pipeline = make_pipeline(archive.url, destination={"auth": "bearer", "token": "wrong-secret"})
        pipeline.spool.prepare()
        status, said = asked(pipeline)
        assert (status, said["http_status"], said["severity"]) == (1, 401, "error")
        status, findings = check(pipeline)
        assert status == 1
        assert "does not accept our credentials" in findings["archive"]["text"]
        assert "auth" in findings["archive"]["advice"]
        assert "wrong-secret" not in json.dumps(findings)


def test_an_archive_whose_certificate_nobody_vouches_for(
    make_pipeline: MakePipeline, sandbox: RunningSandbox, tmp_path: Path
) -> None:
    """It says what is wrong with it; with the right ca_bundle it is well, so that it is the uploader's TLS."""
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    with tls_front(sandbox.port, context) as origin:
        pipeline = make_pipeline(f"{origin}/dicom-web")
        pipeline.spool.prepare()
        status, findings = check(pipeline)
        assert status == 1
        assert "certificate" in findings["archive"]["text"]
        assert "ca_bundle" in findings["archive"]["advice"]
        pipeline.configure(destination={"ca_bundle": tmp_path / "ca.pem"})
        assert asked(pipeline)[1]["severity"] != "error"


def test_a_wrong_address_is_told_from_an_archive_without_a_search(
    make_pipeline: MakePipeline, sandbox: RunningSandbox
) -> None:
    """By a second request as harmless as the first."""
    pipeline = make_pipeline(sandbox.url.replace("/dicom-web", "/elsewhere"))
    pipeline.spool.prepare()
    status, said = asked(pipeline)
    assert (status, said["http_status"]) == (1, 404)
    assert "most likely the address is wrong" in str(said["text"])
    pipeline.configure(destination={"url": sandbox.url})
    status, said = asked(pipeline)
    assert (status, said["severity"]) == (0, "ok")
    assert "not proven" in str(said["text"])


def test_check_on_a_port_that_a_stranger_has(make_pipeline: MakePipeline) -> None:
    """What takes connections and is no receiver is an error."""
    with front(socket.socket.close) as port:
        pipeline = make_pipeline(AWAY, receiver={"port": port})
        pipeline.spool.prepare()
        status, findings = check(pipeline, "--no-archive")
    assert status == 1
    assert findings["port"]["level"] == "error"
    assert "the C-ECHO failed" in findings["port"]["text"]


def test_check_looks_at_folders_and_modes(make_pipeline: MakePipeline) -> None:
    """Others must not read them, and none may be missing."""
    pipeline = make_pipeline(AWAY)
    pipeline.spool.prepare()
    pipeline.spool.incoming.chmod(0o755)
    pipeline.spool.staging.path.rmdir()
    pipeline.configure(spool={"min_free": "900 TB"})
    status, findings = check(pipeline, "--no-archive")
    assert status == 1
    assert findings["incoming"]["advice"] == f"chmod 0700 {pipeline.spool.incoming}"
    assert "There is no folder" in findings["staging"]["text"]
    assert "0xA700" in findings["disk"]["text"]


def test_check_tells_a_damaged_ledger(make_pipeline: MakePipeline) -> None:
    """It is an error, and nothing is changed by looking."""
    pipeline = make_pipeline(AWAY)
    quarantine(pipeline.spool, ONE)
    content = pipeline.spool.ledger.read_bytes()
    damaged = content[:4096] + b"\xff" * 4096 + content[8192:]
    pipeline.spool.ledger.write_bytes(damaged)
    status, findings = check(pipeline, "--no-archive")
    assert status == 1
    assert findings["ledger"]["level"] == "error"
    assert pipeline.spool.ledger.read_bytes() == damaged


def test_repair_in_both_directions(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Files without a row get one, rows without a file say removed; only when asked for, and it says what it did."""
    pipeline = make_pipeline(AWAY)
    for name in (ONE, TWO):
        quarantine(pipeline.spool, name)
    (pipeline.spool.quarantine.path / ONE).unlink()
    make_instance(tmp_path / "new.dcm")
    shutil.copy(tmp_path / "new.dcm", pipeline.spool.incoming / THREE)
    _, findings = check(pipeline, "--no-archive")
    assert findings["files"]["level"] == "warning"
    differ = "1 in incoming/ without a row, 1 a row that says quarantine and no file"
    assert differ in findings["files"]["text"]
    before = pipeline.counts()
    assert (before[State.INCOMING], before[State.QUARANTINE]) == (0, 2)
    shown = run_process(pipeline, "check", "--repair", "--no-archive")
    assert shown.status == 0, shown
    assert "1 files of incoming/ have a row now" in shown.out
    assert "1 rows were without their file in quarantine/" in shown.out
    assert "Ledger and files agree: 1 in incoming/, 1 in quarantine/." in shown.out
    after = pipeline.counts()
    assert (after[State.INCOMING], after[State.QUARANTINE], after[State.REMOVED]) == (1, 1, 1)
    assert run_process(pipeline, "check", "--repair", "--no-archive", "--json").document["repaired"]["adopted"] == 0


def send(pipeline: Pipeline, *arguments: str | Path) -> Ran:
    return run_process(pipeline, "send", *arguments)


def test_send_stores_files_and_folders(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Each with its status; what is no DICOM file in a folder is passed over, and is a failure where it was named."""
    pipeline = make_pipeline(AWAY, receiver={"allowed_calling_ae_titles": "CT7", "require_called_ae_title": "yes"})
    pipeline.start("receiver")
    for name in ("a/1.dcm", "a/b/2.dcm"):
        make_instance(tmp_path / name)
    note = tmp_path / "a" / "note.txt"
    note.write_text("no DICOM")
    shown = send(pipeline, tmp_path / "a")
    assert shown.status == 0, shown
    assert [line.split()[0] for line in shown.out.splitlines()[:2]] == ["0x0000", "0x0000"]
    assert shown.out.endswith("2 instances stored, 1 other file passed over.\n")
    assert {row.calling_ae_title for row in pipeline.rows()} == {"CT7"}
    assert sorted(path.stat().st_size for path in pipeline.incoming())
    shown = send(pipeline, tmp_path / "a" / "1.dcm", note, "--json")
    assert shown.status == 1
    assert (shown.document["stored"], shown.document["failed"]) == (1, 1)
    assert shown.document["files"][1]["status"] == 0
    rejected = send(pipeline, tmp_path / "a" / "1.dcm", "--calling", "STRANGER")
    assert rejected.status == 1
    assert "rejected the association: Calling AE title not recognised (1, 1, 3)" in rejected.out
    assert send(pipeline, tmp_path / "none.dcm").status == 2


def test_send_says_that_nobody_listens(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Exit status 1, and where it was looked."""
    pipeline = make_pipeline(AWAY)
    make_instance(tmp_path / "1.dcm")
    shown = send(pipeline, tmp_path / "1.dcm")
    assert shown.status == 1
    assert f"expected a receiver at 127.0.0.1 port {pipeline.port}" in shown.out


def test_send_and_check_speak_tls_where_the_receiver_does(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """Where it asks for a certificate, its own is shown; a receiver with another certificate is not believed."""
    ca, names = trustme.CA(), ("localhost", "127.0.0.1")
    for name in ("own", "other"):
        issued = ca.issue_cert(*names)
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    own = {
        "tls_certificate": tmp_path / "own.pem",
        "tls_key": tmp_path / "own.key",
        "tls_client_ca": tmp_path / "ca.pem",
    }
    pipeline = make_pipeline(AWAY, receiver=own)
    pipeline.start("receiver")
    make_instance(tmp_path / "1.dcm")
    assert send(pipeline, tmp_path / "1.dcm").status == 0
    assert check(pipeline, "--no-archive")[1]["port"]["level"] == "ok"
    pipeline.configure(receiver={"tls_certificate": tmp_path / "other.pem", "tls_key": tmp_path / "other.key"})
    assert send(pipeline, tmp_path / "1.dcm").status == 1
    assert len(pipeline.rows()) == 1
