"""A real Orthanc with its DICOMweb plugin, on loopback, in a folder of its own."""

import json
import subprocess
import time
from pathlib import Path

import requests

from support.programs import ORTHANC_PLUGIN, free_port


class Orthanc:
    """Starts, stops and asks one Orthanc.

    Args:
        folder: for its configuration, index and files.
        users: name to password; none means no authentication.
        overwrite: what is posted under a UID that is there takes its place; otherwise the old one stays.
    """

    def __init__(self, folder: Path, users: dict[str, str] | None = None, *, overwrite: bool = False) -> None:
        self.folder = folder
        self.http_port = free_port()
        self.users = users or {}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": "Stowgate tests",
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "HttpPort": self.http_port,
            "DicomPort": free_port(),
            "HttpThreadsCount": 8,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": bool(users),
            "RegisteredUsers": self.users,
            "DicomServerEnabled": False,
            "OverwriteInstances": overwrite,
            "Plugins": [str(ORTHANC_PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))

    @property
    def url(self) -> str:
        """The root of its DICOMweb service."""
        return f"http://127.0.0.1:{self.http_port}/dicom-web"

    def start(self) -> None:
        """Start it and wait until it answers."""
        with open(self.folder / "orthanc.log", "ab") as output:
            self._process = subprocess.Popen(
                ["Orthanc", str(self.folder / "orthanc.json")], stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                self.get("/system")
            except requests.RequestException:
                time.sleep(0.1)
            else:
                return
        raise AssertionError("Orthanc did not start:\n" + (self.folder / "orthanc.log").read_text())

    def stop(self) -> None:
        """Stop it, gracefully."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def get(self, path: str) -> requests.Response:
        """GET a path of its REST interface."""
        response = requests.get(
            f"http://127.0.0.1:{self.http_port}{path}", auth=next(iter(self.users.items()), None), timeout=30
        )
        response.raise_for_status()
        return response

    def post_instance(self, content: bytes) -> int:
        """Post a DICOM file directly to its REST interface; the HTTP status."""
        return requests.post(
            f"http://127.0.0.1:{self.http_port}/instances",
            data=content,
            auth=next(iter(self.users.items()), None),
            timeout=30,
        ).status_code

    def instances(self) -> dict[str, str]:
        """SOP Instance UIDs of what it holds, each with Orthanc's own identifier."""
        found = self.get("/instances?expand&full").json()
        return {one["MainDicomTags"]["0008,0018"]["Value"]: one["ID"] for one in found}

    def file(self, identifier: str) -> bytes:
        """The DICOM file of an instance."""
        return self.get(f"/instances/{identifier}/file").content
