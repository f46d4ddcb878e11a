import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from uploader_fakes import Gateway

from common.log_lines import FIELDS


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    """A spool and a ledger with an uploader's parts on them, and an archive in memory."""
    made = Gateway(tmp_path)
    yield made
    made.ledger.close()


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[dict[str, Any]]]:
    """The fields of the log lines with a given text."""
    caplog.set_level(logging.DEBUG)
    return lambda text: [getattr(record, FIELDS) for record in caplog.records if record.getMessage() == text]
