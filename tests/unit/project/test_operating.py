"""The runbook fits the program: it knows every cause, setting, command and alert, and none that is not there."""

import importlib
import re
from pathlib import Path

import click
import pytest

from common.config import SETTINGS
from common.records import Cause
from console.cli import COMMANDS
from console.notices.signs import KEYS

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docs" / "operating.md").read_text()
ALERTS = ROOT / "deploy" / "prometheus" / "stowgate-alerts.yml"


def anchors(text: str) -> set[str]:
    """What a link can point at."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    made = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    return made | set(re.findall(r'<a id="([^"]+)">', text))


def test_every_cause_of_quarantine_is_there() -> None:
    """By its word; what was sent after all is no cause to act."""
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", TEXT, re.MULTILINE))
    assert {cause.value for cause in Cause if cause not in {Cause.NONE, Cause.DUPLICATE, Cause.WARNING}} <= rows


def test_every_word_of_a_notice_is_there() -> None:
    """People look for the word that they were sent."""
    told = TEXT.partition("\n## Being told\n")[2]
    assert {key for key in KEYS if f"`{key}`" not in told} == set()


def test_every_alert_has_its_place() -> None:
    """An alert names its anchor."""
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert names
    assert {name for name in names if name.lower() not in anchors(TEXT)} == set()


def test_links_lead_somewhere() -> None:
    """In all the pages for operators, to anchors too."""
    for page in (ROOT / "docs" / "operating.md", ROOT / "docs" / "upgrading.md", ROOT / "deploy" / "README.md"):
        for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
            name, _, anchor = target.partition("#")
            found = (page.parent / name).resolve() if name else page
            assert found.exists(), (page.name, target)
            assert not anchor or anchor in anchors(found.read_text()), (page.name, target)


def commands() -> list[list[str]]:
    """The command lines of ours that the page shows."""
    shown = re.findall(r"`(?:stowgate|python -m console) ([^`]+)`", TEXT)
    shown += re.findall(r"(?m)^stowgate ([^&\n]+)", TEXT)
    return [line.split() for line in sorted(set(shown)) if line[0] not in "<-"]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_commands_are_there_with_their_options(words: list[str]) -> None:
    """Each command exists, and each option is one of its own."""
    name, *options = words
    assert name in COMMANDS
    command = importlib.import_module(f"console.cli.{COMMANDS[name][0]}").command
    assert isinstance(command, click.Command)
    known = {option for parameter in command.params for option in parameter.opts}
    assert {option for option in options if option.startswith("--")} <= known


def test_settings_are_settings() -> None:
    """What is in backquotes after a section's name, and the limits that decide, are keys."""
    named = re.findall(r"`\[(\w+)\] (\w+)`", TEXT)
    assert named
    assert set(named) <= set(SETTINGS)
