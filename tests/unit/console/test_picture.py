"""A picture by a child process, and what a wicked file or decoder cannot do."""

import concurrent.futures
import io
import os
import random
import threading
import time
import zlib
from pathlib import Path

import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from console import picture
from console.picture import NoPictureError, render
from support.samples import make_instance


def bundled(name: str) -> Path:
    found = get_testdata_file(name)
    assert found is not None
    return Path(str(found))


def opened(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png))


def no_child_is_left() -> bool:
    """Whether none of our children is a worker."""
    ours = b"PPid:\t%d\n" % os.getpid()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status, command = (folder / "status").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if ours in status and b"console.picture_worker" in command:
            return False
    return True


def why_not(path: Path, frame: int = 1, seconds: float = picture.SECONDS) -> str:
    with pytest.raises(NoPictureError) as raised:
        render(path, frame, seconds=seconds)
    assert no_child_is_left()
    return str(raised.value)


def test_a_frame_becomes_a_png() -> None:
    """With its size, its colours, and how many frames there are; several at a time."""
    files = {
        "CT_small.dcm": ((128, 128), "L", 1),
        "examples_ybr_color.dcm": ((320, 240), "RGB", 30),
        "JPGExtended.dcm": ((256, 1024), "L", 1),
        "MR_small_jpeg_ls_lossless.dcm": ((64, 64), "L", 1),
        "GDCMJ2K_TextGBR.dcm": ((400, 400), "RGB", 1),
        "examples_palette.dcm": ((800, 350), "RGB", 1),
    }
    with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
        pictures = dict(zip(files, pool.map(lambda name: render(bundled(name)), files), strict=True))
    for name, (size, mode, frames) in files.items():
        found = opened(pictures[name].png)
        assert (found.size, found.mode, pictures[name].frames) == (size, mode, frames)
    assert no_child_is_left()


def test_one_frame_of_two_gigabytes_costs_one_frame(tmp_path: Path) -> None:
    """Nothing but the header and that frame is read."""
    make_instance(tmp_path / "x", Rows=1000, Columns=1000, NumberOfFrames=2000, PixelData=b"")
    with open(tmp_path / "x", "r+b") as file:
        start = file.seek(0, os.SEEK_END)
        file.seek(start - 4)
        file.write((2_000_000_000).to_bytes(4, "little"))
        file.seek(start + 1499 * 1_000_000)
        file.write(bytes(500_000) + b"\xff" * 500_000)
        file.truncate(start + 2_000_000_000)
    found = render(tmp_path / "x", 1500)
    assert found.frames == 2000
    shown = opened(found.png)
    assert (shown.getpixel((500, 10)), shown.getpixel((500, 990))) == (0, 255)


def test_only_regular_files_are_drawn(tmp_path: Path) -> None:
    """A link is not followed, a FIFO is not waited for."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(bundled("CT_small.dcm"))
    assert why_not(tmp_path / "link") == "it is a symbolic link, which is not followed"
    assert why_not(tmp_path / "fifo") == "it is no regular file"
    assert why_not(tmp_path) == "it is no regular file"
    assert why_not(tmp_path / "missing") == "it is not there any more"


def test_files_without_a_picture_are_told_in_words(tmp_path: Path) -> None:
    """One printable line, whatever a file says of itself."""
    assert why_not(bundled("test-SR.dcm")).startswith("it is a structured report (Comprehensive SR Storage)")
    make_instance(tmp_path / "short", Rows=4000, Columns=4000)
    assert why_not(tmp_path / "short").startswith("it could not be decoded: ")
    make_instance(tmp_path / "huge", Rows=65535, Columns=65535)
    assert "too large to draw" in why_not(tmp_path / "huge")
    make_instance(tmp_path / "odd", PhotometricInterpretation="\x1b[2J\n" + "X" * 3000)
    text = why_not(tmp_path / "odd")
    assert text.isprintable()
    assert len(text) <= 301


def test_no_more_than_two_are_drawn_at_a_time() -> None:
    """Others wait for their turn, and not for ever."""
    with picture._places, picture._places:
        assert why_not(bundled("CT_small.dcm"), seconds=0.1) == "too many pictures are asked for; ask again"
    assert render(bundled("CT_small.dcm")).frames == 1


# A decoder that does what it wants: found before the real one, for JPEG 2000.

WICKED = {
    "crashes": ("os.kill(os.getpid(), 11)", "its decoder crashed on it"),
    "loops": ("while True: pass", "it could not be drawn within 2 s"),
    "sleeps": ("import time; time.sleep(60)", "it could not be drawn within 2 s"),
    "hoards": ("x = bytearray(2 * 10**9)", "it could not be decoded: stowgate"),
    "floods": (
        "[os.write(fd, bytes(10**6)) for _ in range(100) for fd in range(3, 9) if flows(fd)]",
        "its picture is larger than any should be",
    ),
    "ends": ("os._exit(0)", "its decoder crashed on it"),
    "lies": (
        "[os.write(fd, b'[' * 100_000) for fd in range(3, 9) if flows(fd)]; os._exit(0)",
        "its decoder crashed on it",
    ),
    "opens": (
        """raise ValueError(', '.join(tried(*one) for one in (
        (open, '/etc/hostname'), (open, '/tmp/x', 'w'), (socket.socket,), (os.listdir, '/'), (os.pipe,),
        (os.ftruncate, 0, 0), (os.system, 'true'))))""",
        "stowgate: OSError, OSError, OSError, OSError, OSError, OSError, ",
    ),
    "looks round": ("raise ValueError([name for name in os.environ if 'PASS' in name])", "stowgate: []"),
}


@pytest.mark.parametrize("name", WICKED)
def test_a_wicked_decoder_harms_nobody(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in words and in time; nothing of it is left, and the next picture is drawn."""
    does, words = WICKED[name]
    (tmp_path / "openjpeg").mkdir()
    (tmp_path / "openjpeg" / "__init__.py").touch()
    (tmp_path / "openjpeg" / "utils.py").write_text(
        "import os, socket, stat\n"
        "def flows(fd):\n"
        "    try: return stat.S_ISFIFO(os.fstat(fd).st_mode)\n"
        "    except OSError: return False\n"
        "def tried(what, *how):\n"
        "    try: return f'{what.__name__} = {what(*how)}'\n"
        "    except Exception as error: return 'OSError' if isinstance(error, OSError) else repr(error)\n"
        f"def decode_pixel_data(*args, **options):\n    {does}\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("STOWGATE_DESTINATION_PASSWORD", "secret")
    begun = time.monotonic()
    text = why_not(bundled("MR_small_jp2klossless.dcm"), seconds=2 if "2 s" in words else 10)
    assert words in text
    assert time.monotonic() - begun < 12
    assert "STOWGATE" not in text


def test_a_decoder_that_runs_out_of_processor_time_is_stopped_by_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when nobody is left who would end it."""
    (tmp_path / "openjpeg").mkdir()
    (tmp_path / "openjpeg" / "__init__.py").touch()
    (tmp_path / "openjpeg" / "utils.py").write_text(
        "import os, resource\n"
        "def decode_pixel_data(*args, **options):\n"
        "    limits = resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CORE\n"
        "    raise ValueError([resource.getrlimit(one)[1] for one in limits] + [os.nice(0)])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "[8, 1000000000, 0, 0, 10]" in why_not(bundled("MR_small_jp2klossless.dcm"))


def mutated(source: Path, seed: int) -> bytes:
    """A file whose pixel data are damaged, so that it is the decoder that meets it."""
    dice = random.Random(seed)  # noqa: S311 - repeatable
    content = bytearray(source.read_bytes())
    start = content.rindex(b"\xe0\x7f\x10\x00") + 12
    for _ in range(dice.randint(1, 20)):
        at = dice.randrange(start, len(content))
        content[at : at + dice.choice((1, 1, 2))] = dice.randbytes(dice.choice((1, 1, 2)))
    return bytes(content[: dice.randrange(start, len(content))]) if seed % 4 == 3 else bytes(content)


SOURCES = (
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPGExtended.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
)


def draw_mutated(folder: Path, seeds: range) -> dict[str, int]:
    """What came of it, by its first words."""
    outcomes: dict[str, int] = {}

    def one(seed: int) -> str:
        path = folder / str(seed)
        path.write_bytes(mutated(bundled(SOURCES[seed % len(SOURCES)]), seed))
        try:
            render(path)
        except NoPictureError as error:
            return str(error).partition(":")[0] if str(error).isprintable() else "not printable"
        return "drawn"

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for outcome in pool.map(one, seeds):
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def test_damaged_pixel_data_are_drawn_or_refused(tmp_path: Path) -> None:
    """By each decoder; the test process lives on, no thread and no child is left."""
    threads = threading.active_count()
    outcomes = draw_mutated(tmp_path, range(6))
    assert "not printable" not in outcomes
    assert sum(outcomes.values()) == 6
    assert no_child_is_left()
    assert threading.active_count() == threads


@pytest.mark.long
@pytest.mark.timeout(900)
def test_much_damaged_pixel_data_are_drawn_or_refused(tmp_path: Path) -> None:
    """The same with many seeds."""
    outcomes = draw_mutated(tmp_path, range(100, 700))
    assert "not printable" not in outcomes
    assert sum(outcomes.values()) == 600


def test_what_inflates_beyond_measure_is_refused(tmp_path: Path) -> None:
    """A deflated dataset of a few megabytes that would be some gigabytes."""
    make_instance(tmp_path / "x")
    dataset = pydicom.dcmread(tmp_path / "x")
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.PixelData = b""
    dataset.save_as(tmp_path / "x")
    content = (tmp_path / "x").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    head = zlib.decompress(content[start:], -zlib.MAX_WBITS)
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = deflate.compress(head[:-4] + (3_000_000_000).to_bytes(4, "little")) + deflate.flush(zlib.Z_FULL_FLUSH)
    zeros = deflate.compress(bytes(10_000_000)) + deflate.flush(zlib.Z_FULL_FLUSH)
    (tmp_path / "x").write_bytes(content[:start] + first + zeros * 300 + deflate.flush())
    # On a machine that is busy with something else, time may run out before memory does.
    assert why_not(tmp_path / "x") in {
        "it takes more than 1000 MB of memory to draw",
        "it could not be drawn within 10 s",
    }


def test_truncated_fragments_are_refused(tmp_path: Path) -> None:
    """A stream that is cut anywhere."""
    dataset = pydicom.dcmread(bundled("MR_small_jp2klossless.dcm"))
    assert dataset.file_meta.TransferSyntaxUID == JPEG2000Lossless
    stream = pydicom.encaps.get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([stream[:40]])
    dataset.save_as(tmp_path / "x")
    assert why_not(tmp_path / "x").startswith("it could not be decoded: ")
