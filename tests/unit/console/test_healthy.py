"""Whether a process is well, as a container's health check asks."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.presence import Presence
from console.healthy import main, process_trouble
from support.people import HookServer
from support.programs import free_port


@pytest.fixture
def living(tmp_path: Path) -> Iterator[Path]:
    """A spool on which a receiver lives."""
    presence = Presence(tmp_path, "receiver")
    presence.start()
    yield tmp_path
    presence.close()


def test_a_living_process_is_well(living: Path) -> None:
    """One of its role, on this host."""
    assert process_trouble(living, "receiver") == ""
    assert process_trouble(living, "uploader") == "expected a living process, found none"
    assert process_trouble(living, "receiver", host="another") == "expected a living process, found none"


def test_one_that_says_nothing_is_not(living: Path) -> None:
    """It may be stopped, or stuck."""
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert "said nothing for 20 s" in process_trouble(living, "receiver", now=lambda: later)


def test_the_exit_status_says_it(living: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """0 well, 1 not, 2 a broken configuration; a secret that is not given to this process is no trouble."""
    ini = living / "pipeline.ini"
    ini.write_text(f"[spool]\ndirectory = {living}\n[destination]\nauth = basic\nusername = u\n")
    assert main(["--config", str(ini), "receiver"]) == 0
    assert main(["--config", str(ini), "uploader"]) == 1
    assert capsys.readouterr().err == "uploader: expected a living process, found none\n"
    ini.write_text("[spool]\nnonsense = 1\n")
    assert main(["--config", str(ini), "receiver"]) == 2


def test_the_console_is_asked_by_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/healthz has to answer 200; nobody there is not well."""
    ini = tmp_path / "pipeline.ini"
    with HookServer().running() as page:
        ini.write_text(f"[console]\nport = {page.port}\n")
        assert main(["--config", str(ini)]) == 0
        assert page.posted == [("/healthz", None)]
        page.status = 503
        assert main(["--config", str(ini), "console"]) == 1
    ini.write_text(f"[console]\nport = {free_port()}\n")
    assert main(["--config", str(ini)]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "console: /healthz: expected 200, found 503",
        "console: /healthz: no answer (ConnectionRefusedError)",
    ]
