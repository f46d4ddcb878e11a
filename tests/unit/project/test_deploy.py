"""The units in deploy/ fit the program and the settings."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from common.config import SETTINGS, ReceiverConfig, UploaderConfig

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def service(unit: Path) -> configparser.SectionProxy:
    """The section [Service]; of a key that is there more than once, the last."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return parser["Service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_graceful_stop_fits_into_the_time_that_systemd_gives(unit: Path) -> None:
    """TimeoutStopSec is longer than the default of shutdown_seconds and what comes after it."""
    config = ReceiverConfig() if "receiver" in unit.name else UploaderConfig()
    assert float(service(unit)["TimeoutStopSec"]) >= config.shutdown_seconds + 5


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_broken_configuration_is_not_started_again(unit: Path) -> None:
    """The entry point exits with 2, which is no crash."""
    section = service(unit)
    assert section["RestartPreventExitStatus"] == "2"
    assert f"-m {unit.name.removeprefix('stowgate-').removesuffix('@.service')} --config" in section["ExecStart"]


def test_the_variables_that_are_named_are_settings() -> None:
    """In the units and in the example of an environment file; deploy/stowgate is a script with variables of its own."""
    text = "".join(path.read_text() for path in DEPLOY.iterdir() if path.name != "stowgate")
    known = {f"STOWGATE_{section}_{key}".upper() for section, key in SETTINGS}
    named = set(re.findall(r"STOWGATE_[A-Z0-9_]+(?==)", text))
    assert named
    assert named <= known


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
