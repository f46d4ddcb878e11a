"""What is installed is what was locked: every file of every package is known by its hash."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
NAMES = sorted(path.stem for path in ROOT.glob("requirements*.in"))
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, str]:
    """The versions that a file asks for, by package."""
    found = (_PIN.match(line) for line in path.read_text().splitlines())
    return {canonical(match[1]): match[2] for match in found if match}


def entries(path: Path) -> list[str]:
    """The requirements of a file, each as one line."""
    text = re.sub(r"\\\n", " ", path.read_text())
    return [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]


def test_each_list_is_locked() -> None:
    """For each .in there is a .txt, and for each .txt an .in."""
    assert len(NAMES) >= 5
    assert sorted(path.stem for path in ROOT.glob("requirements*.txt")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_requirement_is_pinned_with_hashes(name: str) -> None:
    """No version is left open, and no other source is named than the one that pip is set up with."""
    for entry in entries(ROOT / f"{name}.txt"):
        assert re.match(r"[a-z0-9._-]+==\S+( ; .+?)? +--hash=sha256:[0-9a-f]{64}", entry), entry[:80]


@pytest.mark.parametrize("name", NAMES)
def test_the_locked_list_is_that_of_its_source(name: str) -> None:
    """`make requirements` was run after the .in was changed."""
    wanted = pins(ROOT / f"{name}.in")
    assert wanted
    assert wanted.items() <= pins(ROOT / f"{name}.txt").items()


def test_the_lists_agree_on_every_version() -> None:
    """They are installed beside each other."""
    versions: dict[str, set[str]] = {}
    for name in NAMES:
        for package, version in pins(ROOT / f"{name}.txt").items():
            versions.setdefault(package, set()).add(version)
    assert {package: found for package, found in versions.items() if len(found) > 1} == {}


def test_all_installs_of_the_makefile_demand_hashes() -> None:
    """Each requirements list that the Makefile installs goes through --require-hashes."""
    text = (ROOT / "Makefile").read_text()
    installs = [line for line in text.splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert all("--require-hashes" in line for line in installs)
    assert all(
        line.lstrip().startswith("$(INSTALL)")
        for line in text.splitlines()
        if "-r requirements" in line and "pip install" not in line
    )
