"""The web page as people meet it: `python -m console serve` on a real pipeline, and Debian's Chromium before it."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from common.instance import Instance
from common.ledger import Ledger
from common.records import Cause, Outcome, Receipt, Sender
from console.links import make_token
from support.pipeline import ROOT, Pipeline, wait_for
from support.programs import free_port
from support.samples import make_instance

CHROMIUM = Path("/usr/bin/chromium")

needs_chromium = pytest.mark.skipif(not CHROMIUM.exists(), reason="needs the Debian package chromium")


class ConsolePage:
    """`console serve` on a pipeline.

    Args:
        pipeline: whose ini it is given, with a port of its own.
        settings: of section [console], beside the port.
    """

    def __init__(self, pipeline: Pipeline, **settings: object) -> None:
        self.pipeline = pipeline
        self.port = int(str(settings.pop("port", None) or free_port()))
        pipeline.configure(console={"port": self.port, **settings})
        scheme = "https" if "tls_certificate" in settings else "http"
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.log_path = pipeline.folder / "console.log"
        self.popen: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Start it, and wait for nothing."""
        with open(self.log_path, "ab") as output:
            self.popen = subprocess.Popen(self._command("serve"), cwd=ROOT, stdout=output, stderr=output)

    def start(self) -> "ConsolePage":
        """Start it, and wait until it serves."""
        self.launch()
        self.wait_for_line("serving")
        return self

    def wait_for_line(self, text: str) -> None:
        """Wait until its log has a text."""
        popen = self.popen
        assert popen is not None
        wait_for(lambda: text in self.log() or popen.poll() is not None, what=f"{text!r} from the console")
        assert text in self.log(), f"it ended:\n{self.log()}"

    def log(self) -> str:
        """What it said so far."""
        return self.log_path.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it; the exit status."""
        assert self.popen is not None
        if self.popen.poll() is None:
            self.popen.send_signal(number)
        return self.popen.wait(20)

    def run(self, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Another command of the console, to its end."""
        return subprocess.run(
            self._command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=30, check=False, **more
        )

    def link(self) -> str:
        """A link to sign in by, as `console sign-in` prints one."""
        return f"{self.url}/sign-in#{make_token(self.pipeline.spool.directory, 'anna')}"

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "console", "--config", str(self.pipeline.ini), *arguments]


def quarantined(pipeline: Pipeline, count: int = 1, **given: Any) -> list[str]:
    """Put small instances into quarantine, as an uploader does, without one; their file names.

    Args:
        pipeline: whose.
        count: so many.
        given: cause, answer, sender, patient_id, name.
    """
    pipeline.spool.prepare()
    ledger = Ledger(pipeline.spool.ledger)
    names = []
    try:
        for _ in range(count):
            name = given.get("name") or f"{os.urandom(16).hex()}.dcm"
            path = pipeline.spool.incoming / name
            patient_id, study = given.get("patient_id", "P-4711"), given.get("study", "1.2.826.7")
            uid = make_instance(path, patient_id=patient_id, study=study)
            instance = Instance(
                "1.2.840.10008.5.1.4.1.1.2", uid, "1.2.840.10008.1.2.1", patient_id, study, "1.2.3", "CT"
            )
            sender = Sender(given.get("sender", "FUNDUS1"), "STOWGATE", "10.0.0.7")
            ledger.received(Receipt(name, instance, sender, path.stat().st_size))
            cause = Cause(given.get("cause", "refused"))
            with pipeline.spool.quarantine.reserve(name) as slot:
                slot.write_reason(
                    {"cause": cause.value, "detail": "FailureReason 0xA900", "answer": given.get("answer", "")}
                )
                ledger.quarantined(Outcome(name, 409, cause, "FailureReason 0xA900"), slot.name, attempts=1)
                slot.move()
            names.append(name)
    finally:
        ledger.close()
    return names


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's Chromium, headless."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415 -- where it is missing, other tests go on

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        running = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        try:
            yield running
        finally:
            running.close()


class Visit:
    """A page of the browser that notes what it must not do: ask another host, break the policy, or fail in a script.

    Args:
        context: of the browser.
        url: of the page of the console.
    """

    def __init__(self, context: Any, url: str) -> None:
        self.url = url
        self.wrong: list[str] = []
        self.page = context.new_page()
        self.page.on("request", lambda request: self._look_at(request.url))
        self.page.on("console", lambda said: self._hear(said.type, said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(f"script failed: {error}"))

    def _look_at(self, url: str) -> None:
        if not url.startswith((f"{self.url}/", "data:", "about:")):
            self.wrong.append(f"asked another host: {url}")

    def _hear(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"} and not re.search(r"Failed to load resource", text):
            self.wrong.append(f"{kind} in the console of the browser: {text}")

    def go(self, path: str) -> None:
        """Open a path."""
        self.page.goto(f"{self.url}{path}")

    def sign_in(self, link: str) -> None:
        """Open a link, and see that one is signed in and that the token is gone from the address."""
        self.page.goto(link)
        self.page.get_by_role("button", name="Sign out").wait_for()
        assert "#" not in self.page.url
