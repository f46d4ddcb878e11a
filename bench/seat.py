"""The product's processes, its commands, and its page with somebody before it, as a benchmark needs them."""

import contextlib
import itertools
import re
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from http.cookiejar import CookieJar
from pathlib import Path

from bench.peers import ROOT, BenchError

START_SECONDS = 30.0
_SETTLE_SECONDS = 5.0
_LIVE = "/live/overview"
_LIVE_SECONDS = 2.0  # as the page's own script asks


def console(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """One command."""
    command = [sys.executable, "-m", "console", "--config", str(folder / "pipeline.ini"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@contextlib.contextmanager
def process(folder: Path, module: str, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process of the product for the length of a with block."""
    command = [sys.executable, "-m", module, "--config", str(folder / "pipeline.ini"), *arguments]
    with (
        open(folder / f"{module}.log", "ab") as log,
        subprocess.Popen(command, cwd=ROOT, stderr=log, stdout=log) as one,
    ):
        try:
            yield one
        finally:
            one.terminate()
            one.wait(30)


@contextlib.contextmanager
def page(folder: Path, port: int) -> Iterator[Callable[[str], bytes]]:
    """The page, served, and a browser that is signed in: give it a path.

    Raises:
        BenchError: it does not answer, or does not let us in.
    """
    url = f"http://127.0.0.1:{port}"
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def get(path: str, form: dict[str, str] | None = None) -> bytes:
        body = urllib.parse.urlencode(form).encode() if form else None
        return bytes(browser.open(url + path, body, timeout=30).read())

    with process(folder, "console", "serve") as server:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                get("/healthz")
            except OSError:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise BenchError("expected the page to be served, see console.log") from None
                time.sleep(0.2)
            else:
                break
        token = re.search(r"#(\S+)", console(folder, ["sign-in"]).stdout)
        form = re.search(rb'csrf_token" value="([^"]+)"', get("/sign-in"))
        if token is None or form is None:
            raise BenchError("expected a link and a form to sign in by, found none")
        if b"Sign out" not in get("/sign-in", {"csrf_token": form[1].decode(), "token": token[1]}):
            raise BenchError("expected to be signed in, found that we are not")
        yield get


@contextlib.contextmanager
def looked_at(folder: Path, port: int) -> Iterator[None]:
    """The page, with a person who has the overview before him all the time, and Prometheus every five seconds."""
    over = threading.Event()

    def look_on(get: Callable[[str], bytes]) -> None:
        for turn in itertools.count():
            get(_LIVE)
            if turn % 3 == 0:
                get("/metrics")
            if over.wait(_LIVE_SECONDS):
                return

    with page(folder, port) as get:
        watcher = threading.Thread(target=look_on, args=(get,))
        watcher.start()
        time.sleep(_SETTLE_SECONDS)  # the history of a day is read first
        try:
            yield
        finally:
            over.set()
            watcher.join()
