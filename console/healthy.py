"""`python -m console.healthy [--config FILE] [receiver|uploader|console]`: whether a process is well; for a container.

receiver and uploader: one of this host lives, and none of them has been silent for long. console: its page answers
/healthz. Exit status: 0 it is well, 1 it is not, 2 a broken configuration. It says why in one line on standard error.
"""

import argparse
import http.client
import socket
import ssl
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from common.config import Config, load
from common.errors import ConfigError
from common.presence import processes

_SILENT_SECONDS = 20.0
_PATIENCE_SECONDS = 5.0
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where the page listens, not where we do


def main(argv: list[str]) -> int:
    """Look once."""
    parser = argparse.ArgumentParser(prog="python -m console.healthy", allow_abbrev=False)
    parser.add_argument("--config", type=Path, default=Path("pipeline.ini"), metavar="FILE")
    parser.add_argument("role", nargs="?", choices=("receiver", "uploader", "console"), default="console")
    arguments = parser.parse_args(argv)
    try:
        config = load(arguments.config, secrets_of=())
    except ConfigError as error:
        sys.stderr.write("".join(f"{problem}\n" for problem in error.problems))
        return 2
    role = arguments.role
    trouble = page_trouble(config) if role == "console" else process_trouble(config.spool.directory, role)
    if trouble:
        sys.stderr.write(f"{role}: {trouble}\n")
    return 1 if trouble else 0


def process_trouble(
    spool: Path, role: str, *, host: str = "", now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> str:
    """What is wrong with the processes of a role on this host; empty if nothing is."""
    try:
        found = [one for one in processes(spool) if one.role == role and one.host == (host or socket.gethostname())]
    except OSError as error:
        return f"the spool cannot be read ({error.strerror})"
    if not found:
        return "expected a living process, found none"
    if any((now() - one.seen_at).total_seconds() > _SILENT_SECONDS for one in found):
        return f"it lives, and has said nothing for {_SILENT_SECONDS:g} s"
    return ""


def page_trouble(config: Config) -> str:
    """What is wrong with the page; empty if nothing is."""
    console = config.console
    host = _ANY.get(console.host, console.host)
    connection = http.client.HTTPConnection(host, console.port, timeout=_PATIENCE_SECONDS)
    if console.tls_certificate:
        # Its own page, from its own machine, and nothing secret is said: whose certificate it is does not matter.
        context = ssl._create_unverified_context()  # noqa: S323, SLF001
        connection = http.client.HTTPSConnection(host, console.port, timeout=_PATIENCE_SECONDS, context=context)
    try:
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"/healthz: no answer ({type(error).__name__})"
    finally:
        connection.close()
    return "" if status == http.HTTPStatus.OK else f"/healthz: expected 200, found {status}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
