"""What the processes of a pipeline have loaded: no decoders where nothing is decoded."""

import subprocess
import sys
from pathlib import Path

import pytest

from support.pipeline import ROOT, Pipeline
from support.programs import free_port

DECODERS = ("numpy", "openblas", "gdcm", "openjpeg", "openjp2", "PIL")


def mapped(pid: int) -> set[str]:
    """Which of the decoders' libraries are in the memory of a process."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    return {name for name in DECODERS if any(name in line for line in maps.splitlines() if ".so" in line)}


@pytest.mark.parametrize("module", ["receiver", "uploader"])
def test_no_decoder_is_in_the_process(module: str, tmp_path: Path) -> None:
    """Neither numpy, which pydicom would import, nor what pydicom decodes pictures with."""
    pipeline = Pipeline(tmp_path, f"http://127.0.0.1:{free_port()}/")
    try:
        process = pipeline.start(module)
        assert mapped(process.popen.pid) == set()
    finally:
        pipeline.stop()


def test_no_decoder_is_in_the_page_s_process(tmp_path: Path) -> None:
    """It draws in processes of its own, that cannot act."""
    pipeline = Pipeline(tmp_path, f"http://127.0.0.1:{free_port()}/")
    command = [sys.executable, "-m", "console", "--config", str(pipeline.ini), "serve"]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as page:
        try:
            assert page.stderr is not None
            assert any("serving" in line for line in page.stderr)
            assert mapped(page.pid) == set()
        finally:
            page.kill()


def test_whoever_imports_a_process_keeps_numpy() -> None:
    """As tests and benchmarks do."""
    script = "import receiver.__main__, uploader.__main__, numpy; print(numpy.zeros(3).shape)"
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert ended.stdout == "(3,)\n"
