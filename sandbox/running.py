"""A sandbox as a real process, for tests and demos.

with running_sandbox(tmp_path, "--rule", "first=1,status=503") as sandbox:
    deliver_to(sandbox.url)
    assert sandbox.instances() == [...]
"""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from requests import Response, Session

_LISTENING = "sandbox: listening on "
_START_SECONDS = 20.0
_STOP_SECONDS = 10.0
_CONTROL_SECONDS = 30.0
_PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class RunningSandbox:
    """One sandbox process, and its control resources as methods.

    Every method that asks the sandbox raises requests.RequestException if it does not answer, or answers with
    an error status.

    Attributes:
        url: root of the DICOMweb service; post to <url>/studies.
        control: URL of the control resources, <origin>/sandbox.
        port: the port it listens on.
        process: the process itself.
        lines: what it wrote to standard output so far.
    """

    def __init__(self, command: list[str], *, auth: Any = None, verify: bool | str = True, cert: Any = None) -> None:
        path = os.pathsep.join(filter(None, [_PROJECT, os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": path, "PYTHONUTF8": "1"}
        self.process = subprocess.Popen(  # noqa: S603  our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, encoding="utf-8"
        )
        self.lines: list[str] = []
        listening: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        # A pipe that nobody reads stops its writer after 64 kB.
        self._reader = threading.Thread(target=self._read, args=(listening,), daemon=True)
        self._reader.start()
        try:
            url = listening.get(timeout=_START_SECONDS)
        except queue.Empty:
            url = None
        if url is None:
            self.kill()
            raise RuntimeError("expected the sandbox to listen, found:\n" + "\n".join(self.lines))
        self.url = url
        origin = "/".join(url.split("/")[:3])
        self.control = f"{origin}/sandbox"
        self.port = int(origin.rpartition(":")[2])
        self._session = Session()
        self._session.trust_env = False
        self._session.auth, self._session.verify, self._session.cert = auth, verify, cert

    def summary(self) -> dict[str, Any]:
        """Counts of requests, instances and rules."""
        return dict(self._ask("GET", "").json())

    def instances(self, *, digest: bool = False) -> list[dict[str, Any]]:
        """The instances kept: sop_instance_uid, size_bytes, posts, and sha256 with digest."""
        return list(self._ask("GET", "/instances" + ("?digest=1" if digest else "")).json())

    def instance(self, sop_instance_uid: str) -> bytes:
        """The bytes of one instance as they were posted."""
        return bytes(self._ask("GET", f"/instances/{sop_instance_uid}").content)

    def forget(self) -> None:
        """Delete every instance, every count and the list of requests."""
        self._ask("DELETE", "/instances")

    def requests(self) -> list[dict[str, Any]]:
        """The last 1000 POSTs, oldest first."""
        return list(self._ask("GET", "/requests").json())

    def rules(self) -> list[dict[str, Any]]:
        """The rules with their id, seen and hits."""
        return list(self._ask("GET", "/rules").json())

    def add_rule(self, rule: str | Mapping[str, object]) -> int:
        """Add a rule behind the others, as text or as a JSON object; returns its id."""
        if isinstance(rule, str):
            headers = {"Content-Type": "text/plain; charset=utf-8"}
            answer = self._ask("POST", "/rules", data=rule.encode(), headers=headers)
        else:
            answer = self._ask("POST", "/rules", json=dict(rule))
        return int(answer.json()["id"])

    def remove_rule(self, rule_id: int) -> None:
        """Remove one rule."""
        self._ask("DELETE", f"/rules/{rule_id}")

    def clear_rules(self) -> None:
        """Remove all rules."""
        self._ask("DELETE", "/rules")

    def stop(self) -> int:
        """End it with SIGTERM and return its exit status; killed if it takes more than 10 seconds."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
        return self._ended()

    def kill(self) -> int:
        """End it with SIGKILL, as a crash would, and return its exit status."""
        self.process.kill()
        return self._ended()

    def _ended(self) -> int:
        status = self.process.wait()
        self._reader.join(_STOP_SECONDS)
        return status

    def _ask(self, method: str, path: str, **arguments: Any) -> Response:
        answer = self._session.request(method, self.control + path, timeout=_CONTROL_SECONDS, **arguments)
        answer.raise_for_status()
        return answer

    def _read(self, listening: "queue.SimpleQueue[str | None]") -> None:
        if self.process.stdout is None:
            return
        with self.process.stdout as output:
            for line in output:
                self.lines.append(line.rstrip("\n"))
                if line.startswith(_LISTENING):
                    listening.put(line.removeprefix(_LISTENING).strip())
        listening.put(None)


@contextlib.contextmanager
def running_sandbox(
    directory: str | os.PathLike[str],
    *arguments: str,
    port: int = 0,
    auth: Any = None,
    verify: bool | str = True,
    cert: Any = None,
) -> Iterator[RunningSandbox]:
    """Run python -m sandbox for the length of a with block.

    Args:
        directory: where it keeps the instances; used again, it finds them there.
        arguments: more of the command line; paths in it relative to the current directory.
        port: 0 for a free one, or the port of a sandbox that ended, to take its place.
        auth: as requests takes it, for the control resources of a sandbox that asks for authentication.
        verify: the same for https, a CA bundle.
        cert: the same for --tls-client-ca, a certificate and key.

    Raises:
        RuntimeError: it does not listen within 20 seconds; with what it wrote.
    """
    command = [sys.executable, "-m", "sandbox", "--port", str(port), "--directory", os.fspath(directory), *arguments]
    sandbox = RunningSandbox(command, auth=auth, verify=verify, cert=cert)
    try:
        yield sandbox
    finally:
        sandbox.stop()
