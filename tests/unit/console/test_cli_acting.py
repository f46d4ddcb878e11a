"""Who acts, and as whom."""

import os
import pwd
from pathlib import Path

import pytest

from console.cli.acting import as_owner, person


@pytest.mark.parametrize(
    ("user", "expected"),
    [(0, [("group", 7), ("user", 8), ("do", 0), ("user", 0), ("group", 3)]), (5, [("do", 0)])],
    ids=["root", "another"],
)
def test_root_acts_as_the_owner_of_the_spool(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, user: int, expected: list[tuple[str, int]]
) -> None:
    """For as long as it acts; the group goes first, since the owner may not change it any more."""
    became: list[tuple[str, int]] = []
    status = os.stat_result((0o40700, 1, 1, 1, 8, 7, 0, 0, 0, 0))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(os, "getegid", lambda: 3)
    monkeypatch.setattr(os, "stat", lambda _path: status)
    monkeypatch.setattr(os, "setegid", lambda group: became.append(("group", group)))
    monkeypatch.setattr(os, "seteuid", lambda one: became.append(("user", one)))
    with as_owner(tmp_path):
        became.append(("do", 0))
    assert became == expected


def test_the_history_names_who_became_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the user database; what anybody can write into the environment counts for root alone."""
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("SUDO_USER", "anna\x1b[31m")
    assert person() == r"anna\x1b[31m as root"
    monkeypatch.delenv("SUDO_USER")
    monkeypatch.setenv("LOGNAME", "somebody")
    assert person() == "root"
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    monkeypatch.setattr(pwd, "getpwuid", lambda number: {}[number])
    assert person() == "user 4000000000"
