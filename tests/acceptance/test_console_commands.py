"""The command line of the operator's seat on a real spool: what it says, what it does, its exit status."""

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from common.config import load
from common.presence import Presence
from common.records import Cause, Event, State, Transfer
from common.spool import Spool
from console.cli.screen import Screen
from sandbox.running import running_sandbox
from support.console import quarantine, run, run_process
from support.pipeline import ROOT, Pipeline, wait_for
from support.samples import make_instance

MakePipeline = Callable[..., Pipeline]
ONE, TWO, THREE = (f"{digit * 32}.dcm" for digit in "abc")
EVIL = "\x1b]0;owned\x07\x9b31m\u202e"


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline whose processes are not started."""
    return make_pipeline("http://127.0.0.1:9/dicom-web")


@pytest.fixture
def held(pipeline: Pipeline) -> Pipeline:
    """One with three files in quarantine/."""
    quarantine(pipeline.spool, ONE, patient_id="=cmd|' /C calc'!A1", study_instance_uid="1.2.8", modality="CT")
    quarantine(pipeline.spool, TWO, cause=Cause.GAVE_UP, patient_id="ABC2", study_instance_uid="1.2.8", sender="MR1")
    quarantine(pipeline.spool, THREE, cause=Cause.CONFLICT, patient_id=f"ABC3{EVIL}", study_instance_uid="1.2.9")
    return pipeline


@pytest.fixture
def destination() -> dict[str, object]:
    """What the uploader says of the destination; a test may change it."""
    return {"mode": "open", "reason": "", "http_status": None, "since": None, "next_probe_at": None}


@pytest.fixture
def living(pipeline: Pipeline, destination: dict[str, object]) -> Iterator[list[str]]:
    """A receiver and an uploader, as far as others see them; a probe that is asked for is in the list."""
    pipeline.spool.prepare()
    probes: list[str] = []
    said = [
        Presence(pipeline.spool.directory, "receiver", lambda: {"associations": 2}),
        Presence(
            pipeline.spool.directory,
            "uploader",
            lambda: {"destination": dict(destination)},
            probe=lambda: probes.append(""),
        ),
    ]
    for one in said:
        one.start()
    yield probes
    for one in said:
        one.close()


def is_clean(text: str) -> bool:
    """Whether no character of it drives a terminal, but for line ends."""
    return all(character.isprintable() or character == "\n" for character in text)


def test_status_says_that_all_is_well(pipeline: Pipeline, living: list[str]) -> None:
    """Exit status 0, and the same as JSON."""
    with pipeline.ledger():
        pass
    shown = run_process(pipeline, "status")
    assert (shown.status, shown.err) == (0, "")
    assert shown.out.startswith("All is well")
    assert "waiting" in shown.out
    assert is_clean(shown.out)
    document = run(pipeline, "status", "--json").document
    assert document["well"] is True
    assert document["destination"]["mode"] == "open"
    assert document["states"]["incoming"] == {"instances": 0, "size_bytes": 0, "oldest": None}
    assert [process["role"] for process in document["processes"]] == ["receiver", "uploader"]
    assert document["disk"]["free_bytes"] > 0


def test_status_says_what_does_not_work(held: Pipeline, living: list[str], destination: dict[str, object]) -> None:
    """The destination with its reason, the quarantine by cause, what can be done; exit status 1."""
    destination.update(mode="paused", reason=f"HTTP 503{EVIL}", http_status=503, next_probe_at="2126-11-24T09:00:00Z")
    wait_for(lambda: run(held, "status", "--json").document["destination"]["mode"] == "paused")
    shown = run(held, "status")
    assert shown.status == 1
    assert shown.out.startswith("NOT WELL")
    assert "next probe in" in shown.out
    assert "1 conflict, 1 gave-up, 1 refused" in shown.out
    assert "error: The destination is paused: HTTP 503" in shown.out
    assert "delivery resumes by itself" in shown.out
    assert is_clean(shown.out)
    document = run(held, "status", "--json").document
    assert document["quarantine"]["refused"]["instances"] == 1
    assert "paused" in {trouble["key"] for trouble in document["troubles"]}


def test_status_without_a_spool_says_so(pipeline: Pipeline) -> None:
    """Exit status 1 and no traceback."""
    shown = run_process(pipeline, "status")
    assert shown.status == 1
    assert "The spool directory cannot be read." in shown.out
    assert shown.err == ""


def test_watch_looks_again_and_again(held: Pipeline) -> None:
    """Where there is no terminal, a look is a line, or a JSON document on a line."""
    lines = run(held, "watch", "--count", "2", "--interval", "0.2").out.splitlines()
    assert len(lines) == 2
    assert "quarantine=3" in lines[0]
    documents = run(held, "watch", "--count", "2", "--interval", "0.2", "--json").out.splitlines()
    assert [json.loads(line)["states"]["quarantine"]["instances"] for line in documents] == [3, 3]


def test_long_requests_are_shown_with_how_far_they_are(held: Pipeline) -> None:
    """Bytes, time, and whether one is stuck; as bars on a live screen."""
    now = datetime.now(UTC)
    begun, moved = now - timedelta(seconds=125), now - timedelta(seconds=50)
    with held.ledger() as ledger:
        ledger.transferring([Transfer(ONE, 3, 200_000_000, 50_000_000, begun, moved)], [])
    shown = run(held, "status").out
    line = next(line for line in shown.splitlines() if line.startswith("25 %"))
    assert "50.0 MB" in line
    assert "2 min" in line
    assert "stuck for" in line
    assert run(held, "status", "--json").document["transfers"][0]["sent_bytes"] == 50_000_000
    console = Console(file=io.StringIO(), width=120, record=True)
    console.print(Screen(load(held.ini)).render(bars=True))
    assert re.search(r"━.*25 %.*200.0 MB", console.export_text())


def names_of(pipeline: Pipeline, *arguments: str) -> list[str]:
    return [one["file_name"] for one in run(pipeline, "list", "--json", *arguments).document["instances"]]


def test_list_filters(held: Pipeline) -> None:
    """By state, cause, patient, UID, sender and time; the newest first."""
    assert names_of(held) == [THREE, TWO, ONE]
    assert names_of(held, "--state", "sent") == []
    assert names_of(held, "--cause", "gave-up") == [TWO]
    assert names_of(held, "--patient", "ABC*") == [THREE, TWO]
    assert names_of(held, "--uid", "1.2.8") == [TWO, ONE]
    assert names_of(held, "--sender", "MR1") == [TWO]
    assert names_of(held, "--since", "1h") == [THREE, TWO, ONE]
    assert names_of(held, "--since", "2126-01-01") == []
    assert names_of(held, "--until", "1h") == []
    assert names_of(held, "--since", "2026-01-01", "--limit", "1") == [THREE]


def test_list_is_a_table_that_cuts_nothing_and_drives_no_terminal(held: Pipeline) -> None:
    """Each instance is one line with its whole name, and what a sender wrote is escaped."""
    shown = run(held, "list")
    assert shown.status == 0
    assert is_clean(shown.out)
    line = next(line for line in shown.out.splitlines() if THREE in line)
    assert r"ABC3\x1b]0;owned\x07\x9b31m\u202e" in line
    assert "conflict" in line
    assert "There are more" in run(held, "list", "--limit", "1").err


def test_a_terminal_gets_no_control_character_of_a_sender(held: Pipeline) -> None:
    """In a terminal there are colours, and they are ours."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "console", "--config", str(held.ini), "list"],
        cwd=ROOT,
        stdout=slave,
        stderr=slave,
        env=os.environ | {"TERM": "xterm-256color", "COLUMNS": "200"},
    ) as process:
        os.close(slave)
        output = b""
        try:
            while chunk := os.read(master, 65536):
                output += chunk
        except OSError:
            pass  # the other end is closed
        assert process.wait(30) == 0
    os.close(master)
    text = output.decode()
    assert "\x1b[1m" in text
    assert "\\x1b]0;owned" in text
    assert not any(character in text for character in ("\x1b]", "\x07", "\x9b", "\u202e"))


def test_wrong_usage_is_exit_status_2(held: Pipeline) -> None:
    """It says what was expected."""
    shown = run(held, "list", "--since", "soon")
    assert shown.status == 2
    assert "expected a time such as 30m, 2h" in shown.err
    assert run(held, "list", "--state", "lost").status == 2
    assert run(held, "release").status == 2
    assert run(held, "release", ONE, "--all").status == 2


@pytest.mark.parametrize("command", ["status", "watch", "list", "show", "release", "discard", "probe", "send", "check"])
def test_a_broken_configuration_is_exit_status_2(pipeline: Pipeline, command: str) -> None:
    """Every problem of it is said, by every command."""
    pipeline.configure(receiver={"port": 0}, destination={"url": "nowhere"})
    more = {"release": ["--all"], "discard": ["--all"], "show": [ONE], "send": [str(pipeline.ini)]}
    shown = run(pipeline, command, *more.get(command, []))
    assert shown.status == 2
    assert "[receiver] port: expected" in shown.err
    assert "[destination] url: expected" in shown.err
    assert shown.out == ""


def test_show_tells_all_of_one_instance(pipeline: Pipeline, tmp_path: Path) -> None:
    """Its row, its history, what the archive said, its header; by name and by UID."""
    uid = make_instance(
        tmp_path / "one.dcm", patient_name=f"Doe^Jane{EVIL}", patient_id="P7", SpecificCharacterSet="ISO_IR 192"
    )
    reason = {"failure_reason": 0xA900, "answer": f"no{EVIL}"}
    content = (tmp_path / "one.dcm").read_bytes()
    quarantine(pipeline.spool, ONE, content, sop_instance_uid=uid, patient_id="P7", reason=reason)
    for name in (ONE, uid):
        shown = run(pipeline, "show", name)
        assert shown.status == 0
        for text in ("quarantine", "refused", "received", "quarantined", "A900", "P7", "PatientName", "Doe^Jane", uid):
            assert text in shown.out
        assert is_clean(shown.out)
    document = run(pipeline, "show", "--json", uid).document
    assert document["instance"]["file_name"] == ONE
    assert [event["event"] for event in document["events"]] == ["received", "quarantined"]
    assert document["reason"]["failure_reason"] == 0xA900
    assert {element["keyword"]: element["value"] for element in document["header"]}["PatientID"] == "P7"


def test_show_follows_no_link_and_says_what_it_does_not_know(held: Pipeline, tmp_path: Path) -> None:
    """A link in the place of a file is not read; a name that nobody knows is exit status 1."""
    make_instance(tmp_path / "secret.dcm", patient_name="Secret^Name")
    path = held.spool.quarantine.path / ONE
    path.unlink()
    path.symlink_to(tmp_path / "secret.dcm")
    shown = run(held, "show", ONE)
    assert "it is no file" in shown.out
    assert "Secret" not in shown.out
    unknown = run(held, "show", "1.2.3.4.5")
    assert unknown.status == 1
    assert "expected the name of a file or a SOP Instance UID" in unknown.err


def test_a_release_is_delivered(make_pipeline: MakePipeline, tmp_path: Path) -> None:
    """What the archive refused once is taken when it is released, and the history says by whom."""
    uid = make_instance(tmp_path / "one.dcm")
    with running_sandbox(tmp_path / "archive", "--rule", "first=1,fail=0xA900") as archive:
        pipeline = make_pipeline(archive.url)
        pipeline.start("receiver")
        pipeline.start("uploader")
        sent = run_process(pipeline, "send", tmp_path / "one.dcm")
        assert sent.status == 0, sent
        wait_for(pipeline.quarantined, what="quarantine")
        shown = run_process(pipeline, "release", "--all")
        assert shown.status == 0, shown
        assert shown.out == "1 file released.\n"
        wait_for(lambda: pipeline.counts()[State.SENT] == 1, what="sent")
        assert [one["sop_instance_uid"] for one in archive.instances()] == [uid]
        events = run(pipeline, "show", uid, "--json").document["events"]
        assert [event["event"] for event in events] == ["received", "quarantined", "released", "sent"]
        assert events[2]["detail"].startswith("by ")
        assert run(pipeline, "status", "--json").document["rates"]["sent"] == 1


def test_a_release_says_what_failed(held: Pipeline) -> None:
    """The others are released; exit status 1."""
    (held.spool.incoming / ONE).write_bytes(b"in the way")
    shown = run(held, "release", ONE, TWO, "../ledger.db", "gone.dcm", "--json")
    assert shown.status == 1
    assert shown.document["released"] == [TWO]
    assert set(shown.document["failed"]) == {ONE, "../ledger.db", "gone.dcm"}
    text = run(held, "release", ONE)
    assert text.status == 1
    assert f"not released: {ONE}: incoming/ has an entry of that name" in text.err
    assert held.quarantined() == {ONE, THREE}


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        (["--cause", "gave-up"], {ONE, THREE}),
        (["--study", "1.2.8"], {THREE}),
        (["--study", "1.2.3.1"], {ONE, TWO, THREE}),
        (["--all"], set()),
        ([ONE], {TWO, THREE}),
    ],
    ids=["cause", "study", "instance", "all", "name"],
)
def test_discard_deletes_what_was_meant(held: Pipeline, arguments: list[str], left: set[str]) -> None:
    """By cause, study, all or name; the ledger keeps its row and says who did it."""
    shown = run(held, "discard", *arguments, "--yes", "--json")
    assert shown.status == 0, shown
    assert held.quarantined() == left
    assert set(shown.document["discarded"]) == {ONE, TWO, THREE} - left
    with held.ledger() as ledger:
        for name in shown.document["discarded"]:
            assert ledger.rows([name])[name].state is State.REMOVED
            assert ledger.events(name)[-1].event is Event.REMOVED


def test_discard_asks_and_shows_what_it_would_delete(held: Pipeline) -> None:
    """Only yes deletes: not no, and not the end of the input."""
    for answer in ("n\n", ""):
        shown = run(held, "discard", "--all", answer=answer)
        assert shown.status == 1
        assert "Delete 3 files for good?" in shown.err
        assert ONE in shown.err
        assert is_clean(shown.err)
        assert held.quarantined() == {ONE, TWO, THREE}
    shown = run(held, "discard", "--all", answer="y\n")
    assert shown.status == 0
    assert shown.out == "3 files discarded.\n"
    assert held.quarantined() == set()


def test_a_file_whose_name_is_no_text_can_be_named(pipeline: Pipeline) -> None:
    """By its bytes, and as the ledger writes them."""
    for number, given in enumerate([os.fsdecode(b"\xe9.dcm"), r"\xe9.dcm"]):
        quarantine(pipeline.spool, os.fsdecode(b"\xe9.dcm"), sop_instance_uid=f"1.2.{number}")
        shown = run(pipeline, "discard", given, "--yes", "--json")
        assert shown.document["discarded"] == [r"\xe9.dcm"], shown
        assert pipeline.quarantined() == set()


def test_probe_reaches_the_uploader(pipeline: Pipeline, living: list[str], destination: dict[str, object]) -> None:
    """It is asked once; what comes of it can be waited for."""
    destination["mode"] = "paused"
    wait_for(lambda: run(pipeline, "status", "--json").document["destination"]["mode"] == "paused")
    shown = run(pipeline, "probe")
    assert shown.status == 0
    assert shown.out == "Asked the uploader to probe; the destination is paused.\n"
    wait_for(lambda: living, what="a probe")
    assert run(pipeline, "probe", "--wait", "0.2").status == 1
    destination["mode"] = "open"
    assert run(pipeline, "probe", "--wait", "10").status == 0


def test_probe_without_an_uploader_says_so(held: Pipeline) -> None:
    """Exit status 1."""
    shown = run(held, "probe")
    assert shown.status == 1
    assert "No uploader is running" in shown.out


def test_export_is_csv_that_no_spreadsheet_runs(held: Pipeline, tmp_path: Path) -> None:
    """A value that begins like a formula gets an apostrophe; nothing drives a terminal; filters work as in list."""
    shown = run(held, "export")
    assert shown.status == 0
    rows = {row["file_name"]: row for row in csv.DictReader(io.StringIO(shown.out))}
    assert list(rows) == [THREE, TWO, ONE]
    assert rows[ONE]["patient_id"] == "'=cmd|' /C calc'!A1"
    assert rows[TWO]["patient_id"] == "ABC2"
    assert rows[ONE]["state"] == "quarantine"
    assert is_clean(shown.out.replace("\r\n", "\n"))
    path = tmp_path / "rows.csv"
    assert run(held, "export", "--cause", "gave-up", "-o", path).status == 0
    assert [row["file_name"] for row in csv.DictReader(path.open())] == [TWO]
    assert path.stat().st_mode & 0o777 == 0o600
    lines = run(held, "export", "--json").out.splitlines()
    assert [json.loads(line) for line in lines] == run(held, "list", "--json").document["instances"]
    assert run(held, "export", "--json", "--limit", "1").out.splitlines() == lines[:1]
    assert run(held, "export", "-o", tmp_path / "none" / "rows.csv").status == 1


def complete(pipeline: Pipeline, tmp_path: Path, *lines: list[str]) -> list[list[str]]:
    """What a real bash offers for the last word of each line, with deploy/stowgate in the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "stowgate").symlink_to(ROOT / "deploy" / "stowgate")
    script = 'eval "$(stowgate completion bash)"\n'
    for words in lines:
        quoted = " ".join(f"'{word}'" for word in ("stowgate", *words))
        script += (
            f"COMPREPLY=(); COMP_WORDS=({quoted}); COMP_CWORD={len(words)}\n"
            '_stowgate_completion stowgate; printf "%s " "${COMPREPLY[@]}"; echo\n'
        )
    path = os.pathsep.join([str(folder), str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": path, "STOWGATE_CONFIG": str(pipeline.ini)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "not found" not in ended.stderr
    return [line.split() for line in ended.stdout.splitlines()]


def test_a_real_bash_completes_commands_options_and_names(held: Pipeline, tmp_path: Path) -> None:
    """Names in quarantine too, but none that a shell would run."""
    quarantine(held.spool, "$(touch owned).dcm")
    offered = complete(held, tmp_path, ["s"], ["list", "--"], ["discard", "--cause", "gave"], ["release", ""])
    assert offered[0] == ["status", "show", "send", "serve", "sign-in"]
    assert "--patient" in offered[1]
    assert offered[2:] == [["gave-up"], [ONE, TWO, THREE]]


def test_the_wrapper_says_its_own_name_and_reads_the_secrets(pipeline: Pipeline, tmp_path: Path) -> None:
    """From any folder, by a link; what stands beside the settings in secrets.env is taken as text and never run."""
    pipeline.configure(destination={"auth": "bearer"})
    (pipeline.ini.parent / "secrets.env").write_text(
        f'# why\nSTOWGATE_DESTINATION_TOKEN="a$(touch${{IFS}}{tmp_path}/owned)b"\nPATH=/nowhere\n'
    )
    (tmp_path / "console").mkdir()
    link = tmp_path / "stowgate"
    link.symlink_to(ROOT / "deploy" / "stowgate")
    environ = os.environ | {
        "STOWGATE_CONFIG": str(pipeline.ini),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    shown = subprocess.run([link, "list"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    # The configuration is whole, so that it comes as far as the ledger, which is not there.
    assert (shown.returncode, "ledger cannot be read" in shown.stderr) == (1, True), shown
    assert (
        "Usage: stowgate "
        in subprocess.run(
            [link, "list", "--help"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
        ).stdout
    )
    assert not (tmp_path / "owned").exists()


def test_a_command_needs_only_its_own_libraries(held: Pipeline) -> None:
    """status imports neither the web nor pydicom; a command that is not there says so; --help imports none."""
    script = (
        "import sys; from console.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    for arguments in (["--help"], ["--config", str(held.ini), "list"]):
        loaded = subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stderr.split()
        assert "click" in loaded
        assert not {"flask", "pydicom", "pynetdicom", "requests", "prometheus_client"} & set(loaded)


def test_spools_that_are_elsewhere_are_not_made(pipeline: Pipeline) -> None:
    """To look changes nothing: no folder, no ledger."""
    for command in (["status"], ["list"], ["watch", "--count", "1"], ["export"]):
        run(pipeline, *command)
        assert not Spool(pipeline.spool.directory).directory.exists()
