"""What is in deploy/ fits the program and the settings."""

import configparser
import functools
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.config import SETTINGS, ReceiverConfig, UploaderConfig, load
from console.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
TEXTS = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file()]
# Where an installation is, as all of deploy/ has it.
INSTALLED = "/opt/stowgate/"
# Variables of compose.yml and of the image that are no settings.
NO_SETTINGS = {"STOWGATE_CONFIG", "STOWGATE_IMAGE", "STOWGATE_DICOM_PORT"}


def service(unit: Path) -> configparser.SectionProxy:
    """The section [Service]; of a key that is there more than once, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser["Service"]


def role(unit: Path) -> str:
    """Receiver, uploader or console."""
    return unit.name.removeprefix("stowgate-").removesuffix(".service").removesuffix("@")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_graceful_stop_fits_into_the_time_that_systemd_gives(unit: Path) -> None:
    """TimeoutStopSec is longer than the default of shutdown_seconds and what comes after it."""
    seconds = {"receiver": ReceiverConfig().shutdown_seconds, "uploader": UploaderConfig().shutdown_seconds}
    assert float(service(unit)["TimeoutStopSec"]) >= seconds.get(role(unit), 5) + 5


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_broken_configuration_is_not_started_again(unit: Path) -> None:
    """The entry point exits with 2, which is no crash."""
    section = service(unit)
    assert section["RestartPreventExitStatus"] == "2"
    assert f"-m {role(unit)} --config" in section["ExecStart"]


def test_the_variables_that_are_named_are_settings() -> None:
    """In the units and in the example of an environment file; deploy/stowgate is a script with variables of its own."""
    text = "".join(path.read_text(errors="replace") for path in TEXTS if path.name != "stowgate")
    """In the units and in the example of an environment file."""
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    known = {f"STOWGATE_{section}_{key}".upper() for section, key in SETTINGS}
    named = set(re.findall(r"\bSTOWGATE_[A-Z0-9_]+(?=[=:])", text)) - NO_SETTINGS
    assert {"STOWGATE_SPOOL_DIRECTORY", "STOWGATE_CONSOLE_HOST", "STOWGATE_NOTIFY_WEBHOOK_URL"} <= named
    assert named <= known


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_what_a_unit_starts_is_there(unit: Path) -> None:
    """The interpreter is that of the virtual environment, the module starts, and files that are named exist."""
    words = service(unit)["ExecStart"].split()
    assert words[:2] == [f"{INSTALLED}.venv/bin/python", "-m"]
    assert starts(words[2:])
    for name in re.findall(rf"file://{INSTALLED}(\S+)", unit.read_text()):
        assert (ROOT / name).is_file()


def starts(words: list[str]) -> bool:
    """Whether `python -m` with these words is a command of ours: its entry point answers --help, its name is known."""
    module, option, path, *command = words
    assert (option, path) == ("--config", "/etc/stowgate/pipeline.ini")
    return has_help(module) and all(word in COMMANDS for word in command)


@functools.cache
def has_help(module: str) -> bool:
    """Whether an entry point starts so far as to say how it is used."""
    command = [sys.executable, "-m", module, "--help"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode == 0


def test_what_the_image_is_made_of_is_there() -> None:
    """Each COPY of the Containerfile; the list for the builder has all of them."""
    text = (DEPLOY / "Containerfile").read_text()
    copied = [
        words[:-1] for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) if (words := line.split())
    ]
    wanted = [name for names in copied for name in names]
    assert {"common", "receiver", "uploader", "console", "pipeline.ini", "requirements*.txt"} <= set(wanted)
    sent = set(re.findall(r"^!(.+)$", (DEPLOY / "Containerfile.dockerignore").read_text(), re.MULTILINE))
    for name in wanted:
        assert list(ROOT.glob(name)), name
        assert name in sent
    assert "--require-hashes" in text
    assert re.search(r"^USER 10104:10104$", text, re.MULTILINE)


def test_what_the_containers_start_is_there() -> None:
    """The commands of compose.yml and of the image's own are commands, and each service has a health check."""
    compose = (DEPLOY / "compose.yml").read_text()
    commands = re.findall(r"^    command: \[(.+)\]$", compose, re.MULTILINE)
    commands += [
        re.findall(r"^CMD \[(.+)\]$", (DEPLOY / "Containerfile").read_text(), re.MULTILINE)[-1].replace('"', "")
    ]
    assert len(commands) == 5
    for command in set(commands):
        assert starts(command.split(", "))
    services = compose.partition("\nservices:\n")[2].partition("\nnetworks:\n")[0]
    for service in re.split(r"(?m)^  (?=[a-z])", services)[1:]:
        assert "healthcheck:" in service, service.partition(":")[0]


def test_a_container_is_given_time_to_stop() -> None:
    """As a unit is."""
    seconds = re.findall(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yml").read_text())
    assert [int(one) for one in seconds] == [30]


def test_the_page_is_on_the_loopback_of_the_machine() -> None:
    """Beyond it a console refuses to start without users and TLS, which a container is not born with."""
    console = (DEPLOY / "compose.yml").read_text().partition("\n  console:\n")[2].partition("\n  orthanc:\n")[0]
    assert "network_mode: host" in console
    assert "STOWGATE_CONSOLE_HOST: 127.0.0.1" in console
    assert "ports:" not in console


def test_the_settings_in_the_containers_are_settings(tmp_path: Path) -> None:
    """What compose.yml and the Containerfile set is a configuration."""
    text = (DEPLOY / "compose.yml").read_text() + (DEPLOY / "Containerfile").read_text()
    environ = {
        name: re.sub(r"\$\{[A-Z_]+:-(.+)\}", r"\1", value)
        for name, value in re.findall(r"(STOWGATE_[A-Z_]+)(?:: |=)([^\s\\]+)", text)
        if name not in NO_SETTINGS
    }
    shutil.copy(ROOT / "pipeline.ini", tmp_path)
    config = load(tmp_path / "pipeline.ini", environ)
    assert config.spool.directory == Path("/var/lib/stowgate/spool")
    assert (config.console.host, config.console.port) == ("127.0.0.1", 11180)


def test_tmpfiles_never_ages_the_spool() -> None:
    """A line with an age would have files deleted that are owed."""
    lines = (DEPLOY / "tmpfiles.d" / "stowgate.conf").read_text().splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    assert ["d", "/var/lib/stowgate/spool", "0700", "stowgate", "stowgate", "-"] in rules
    assert all(rule[0] == "x" or rule[5] == "-" for rule in rules)


@pytest.mark.skipif(not shutil.which("systemd-tmpfiles"), reason="needs systemd-tmpfiles (apt install systemd)")
def test_systemd_reads_the_tmpfiles(tmp_path: Path) -> None:
    """It makes the folders, with their modes, under another root."""
    (tmp_path / "etc").mkdir()
    for name, line in (("passwd", "stowgate:x:{0}:{1}::/:/"), ("group", "stowgate:x:{1}:")):
        (tmp_path / "etc" / name).write_text(line.format(*ids()) + "\n")
    subprocess.run(
        ["systemd-tmpfiles", "--create", f"--root={tmp_path}", str(DEPLOY / "tmpfiles.d" / "stowgate.conf")],
        check=True,
        timeout=30,
    )
    assert (tmp_path / "var/lib/stowgate/spool").stat().st_mode & 0o777 == 0o700


def ids() -> tuple[int, int]:
    """Of who runs this."""
    return os.getuid(), os.getgid()


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze (apt install systemd)")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_rates_the_units_as_little_exposed(unit: Path) -> None:
    """At most 1.5 of 10, as docs/security.md says."""
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", str(unit)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-500:] + rated.stderr
    assert "Unknown" not in rated.stderr
