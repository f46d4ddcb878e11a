"""What `check` says of a ledger that takes long to be read."""

from pathlib import Path

import pytest

from common import ledger_reader
from common.config import load
from common.ledger import Ledger
from common.spool import Spool
from console import checks
from console.checks import Level


def test_a_ledger_too_large_for_a_moment_is_checked_whole_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not known to be whole is not said to be, and what to do about it is said."""
    (tmp_path / "pipeline.ini").write_text(f"[spool]\ndirectory = {tmp_path / 'spool'}\n")
    config = load(tmp_path / "pipeline.ini")
    spool = Spool(config.spool.directory)
    spool.prepare()
    Ledger(spool.ledger).close()
    monkeypatch.setattr(ledger_reader, "_STEPS", 1)
    monkeypatch.setattr(checks, "_GLANCE_SECONDS", 0.0)
    (glance,) = checks.ledger(config)
    assert (glance.level, glance.advice) == (Level.OK, "--thorough does that.")
    assert "too large" in glance.text
    (whole,) = checks.ledger(config, thorough=True)
    assert (whole.level, whole.text) == (Level.OK, "The ledger is whole.")
