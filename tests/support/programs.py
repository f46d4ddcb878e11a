"""Programs that tests need and a machine may lack."""

import os
import shutil
import socket
from pathlib import Path

import pytest

ORTHANC_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")

needs_dcmtk = pytest.mark.skipif(shutil.which("dcmsend") is None, reason="needs the Debian package dcmtk")
needs_orthanc = pytest.mark.skipif(
    shutil.which("Orthanc") is None or not ORTHANC_PLUGIN.exists(),
    reason="needs the Debian packages orthanc and orthanc-dicomweb",
)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the Debian package openssl")
needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None or shutil.which("promtool") is None, reason="needs the Debian package prometheus"
)
needs_rsync = pytest.mark.skipif(shutil.which("rsync") is None, reason="needs the Debian package rsync")


def dcmtk(name: str) -> str:
    """The path of one of DCMTK's programs, and not of the one by the same name that pynetdicom brings along."""
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found is not None and Path(found).read_bytes()[:2] != b"#!":
            return found
    raise AssertionError(name)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
