"""`make screenshots`: the page with sample data, photographed for docs/images/. No patient is in it, and no archive.

The ledger of a fresh spool is filled with an afternoon of which nothing is true; receiver, uploader, sandbox and
console are real, and so is what the pictures show of them.
"""

import random
import shutil
import sys
import tempfile
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image
from pydicom import dcmread

from common.instance import Instance
from common.ledger import Ledger
from common.records import Cause, Outcome, Receipt, Sender
from sandbox.running import running_sandbox
from support.console_page import ConsolePage, browser
from support.pipeline import ROOT, Pipeline, wait_for
from support.samples import bundled_folder, make_instance

IMAGES = ROOT / "docs" / "images"
MOST_BYTES = 200_000
_DESKTOP = {"width": 1200, "height": 900}
_PHONE = {"width": 390, "height": 844}
_MOST_HEIGHT = 1500
_CT = "1.2.840.10008.5.1.4.1.1.2"
_SENDERS = ("FUNDUS1", "OCT2", "CT-ER", "MR_NORTH")


class Clock:
    """A clock that the ledger is given."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        """The time that it shows."""
        return self.now


def fill(pipeline: Pipeline) -> None:
    """Write an afternoon into the ledger."""
    pipeline.spool.prepare()
    chance = random.Random(6)  # noqa: S311 -- the same pictures each time
    clock = Clock()
    begin = clock.now - timedelta(minutes=75)
    ledger = Ledger(pipeline.spool.ledger, now=clock)
    number = 0
    for minute in range(74):
        waves = 14 + 10 * ((minute // 9) % 3)
        receipts = []
        clock.now = begin + timedelta(minutes=minute)
        for _ in range(chance.randint(waves // 2, waves)):
            number += 1
            uid = f"1.2.826.0.1.3680043.8.498.{number}"
            instance = Instance(_CT, uid, "1.2.840.10008.1.2.1", f"S{number // 40:05}", f"{uid}.1", f"{uid}.2", "OP")
            sender = Sender(chance.choice(_SENDERS), "STOWGATE", "10.0.0.7")
            receipts.append(Receipt(f"{number:032x}.dcm", instance, sender, chance.randint(200_000, 9_000_000)))
        ledger.received(*receipts)
        slow = 40 if 35 <= minute < 42 else 1
        clock.now += timedelta(seconds=chance.uniform(0.2, 1.4) * slow)
        ledger.sent([Outcome(one.file_name, 200) for one in receipts])
    ledger.close()


def fill_quarantine(pipeline: Pipeline) -> None:
    """Put some of pydicom's bundled images into quarantine."""
    clock = Clock()
    ledger = Ledger(pipeline.spool.ledger, now=clock)
    what = [
        ("CT_small.dcm", Cause.REFUSED, "FailureReason 0xA900", "DataSet does not match SOP Class", 409),
        ("examples_ybr_color.dcm", Cause.TOO_LARGE, "HTTP 413 to this instance alone", "Request Entity Too Large", 413),
        ("JPEG2000.dcm", Cause.GAVE_UP, "8 attempts; the last: HTTP 500", "Internal Server Error", 500),
        ("MR_small.dcm", Cause.REFUSED, "FailureReason 0xC122", "SOP Class not supported by this store", 409),
        ("SC_rgb_jpeg_gdcm.dcm", Cause.CONFLICT, "HTTP 409 to this instance alone", "Conflict", 409),
    ]
    for at, (file, cause, detail, answer, status) in enumerate(what):
        source = bundled_folder() / file
        name = f"{0xABC000 + at:032x}.dcm"
        shutil.copy(source, pipeline.spool.incoming / name)
        dataset = dcmread(source, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID", "Modality"])
        instance = Instance(
            dataset.SOPClassUID, dataset.SOPInstanceUID, dataset.file_meta.TransferSyntaxUID,
            f"S{at + 17:05}", "1.2.826.0.1.77", "1.2.826.0.1.77.1", str(dataset.get("Modality", "OT")),
        )  # fmt: skip
        clock.now = datetime.now(UTC) - timedelta(minutes=40 - at * 7)
        ledger.received(
            Receipt(name, instance, Sender(_SENDERS[at % 4], "STOWGATE", "10.0.0.7"), source.stat().st_size)
        )
        clock.now += timedelta(seconds=3)
        outcome = Outcome(name, status, cause, detail)
        with pipeline.spool.quarantine.reserve(name) as slot:
            slot.write_reason({"cause": cause.value, "detail": detail, "answer": answer, "http_status": status})
            ledger.quarantined(outcome, slot.name, attempts=1)
            slot.move()
    ledger.close()


def main(folder: Path) -> int:
    """Take all pictures; the exit status: 1 if one is larger than it may be."""
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        sandbox = stack.enter_context(running_sandbox(scratch / "sandbox"))
        pipeline = Pipeline(
            scratch / "pipeline", sandbox.url, uploader={"backoff_initial_seconds": 90, "backoff_max_seconds": 300}
        )
        stack.callback(pipeline.stop)
        fill(pipeline)
        pipeline.start("receiver")
        pipeline.start("uploader")
        console = ConsolePage(pipeline)
        stack.callback(console.stop)
        console.start()
        chromium = stack.enter_context(browser())
        camera = Camera(chromium, console, folder)
        camera.take("/", "overview", theme="light")
        camera.take("/", "overview", theme="dark")
        fill_quarantine(pipeline)
        sandbox.add_rule("status=503,body=down for maintenance")
        make_instance(pipeline.spool.incoming / "waiting.dcm")
        wait_for(lambda: "paused" in camera.text("/"), 40, "the pause on the page")
        camera.take("/", "overview-paused", theme="light")
        camera.take("/", "overview-paused", theme="dark")
        camera.take("/", "overview-paused", theme="light", phone=True)
        camera.take("/quarantine", "quarantine", theme="light")
        camera.take("/quarantine", "quarantine", theme="dark")
        camera.take("/quarantine#count", "quarantine", theme="light", phone=True)
        camera.take("instance", "instance", theme="light")
        camera.take("instance", "instance", theme="dark")
        camera.take("instance", "instance", theme="light", phone=True)
        camera.take("search", "search", theme="light")
        camera.take("/sign-in", "sign-in", theme="light", signed_in=False)
    large = [path.name for path in folder.glob("*.png") if path.stat().st_size > MOST_BYTES]
    if large:
        sys.stderr.write(f"expected pictures of {MOST_BYTES} bytes at most, found larger: {', '.join(large)}\n")
    return 1 if large else 0


class Camera:
    """Photographs pages, signed in or not."""

    def __init__(self, chromium: Any, console: ConsolePage, folder: Path) -> None:
        self._chromium = chromium
        self._console = console
        self._folder = folder
        self._state = self._sign_in()

    def _sign_in(self) -> Any:
        context = self._chromium.new_context()
        page = context.new_page()
        page.goto(self._console.link())
        page.get_by_role("button", name="Sign out").wait_for()
        state = context.storage_state()
        context.close()
        return state

    def text(self, path: str) -> str:
        """What a page says."""
        context = self._chromium.new_context(storage_state=self._state)
        page = context.new_page()
        page.goto(f"{self._console.url}{path}")
        said = page.locator("main").inner_text()
        context.close()
        return str(said)

    def take(self, path: str, name: str, *, theme: str, phone: bool = False, signed_in: bool = True) -> None:
        """Photograph one page, as a whole on a phone, else what a window shows of it."""
        context = self._chromium.new_context(
            storage_state=self._state if signed_in else None,
            viewport=_PHONE if phone else _DESKTOP,
            color_scheme=theme,
            locale="en-GB",
        )
        page = context.new_page()
        if path == "instance":
            page.goto(f"{self._console.url}/quarantine?sort=size")
            page.locator("table.rows tbody a").first.click()
            page.wait_for_load_state("networkidle")
        elif path == "search":
            page.goto(f"{self._console.url}/search")
            page.get_by_label("Patient ID").fill("S0001*")
            page.get_by_role("button", name="Search").click()
        else:
            page.goto(f"{self._console.url}{path}")
        page.wait_for_timeout(300)
        file = self._folder / f"{name}-{theme}{'-phone' if phone else ''}.png"
        # As much as one looks at, in few colours: the pictures are kept in the repository.
        height = _PHONE["height"] if phone else min(int(page.evaluate("document.body.scrollHeight")), _MOST_HEIGHT)
        width = (_PHONE if phone else _DESKTOP)["width"]
        clip = {"x": 0, "y": 0, "width": width, "height": height}
        shot = page.screenshot(full_page=True, clip=clip, animations="disabled")
        context.close()
        Image.open(BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(file, optimize=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
