"""One instance: its row, its time line, what the archive answered, its header and a picture of it.

Its file is opened only where it lies as a plain file in incoming/ or quarantine/, with no link on the way.
"""

import os
import stat
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, abort, make_response, render_template, request
from pydicom.uid import UID

from common import logs
from common.directory import parent_of
from common.records import Row, State, file_names
from console.header import read
from console.picture import NoPictureError, render
from console.web.guard import needs_person
from console.web.quarantine import line_of
from console.web.services import services

log = logs.get(__name__)

blueprint = Blueprint("instance", __name__)

_MOST_ELEMENTS = 2000


@blueprint.get("/instances/<int:number>")
@needs_person
def show(number: int) -> str:
    """The page."""
    row = _row(number)
    line = line_of(row, with_answer=row.state is State.QUARANTINE)
    path = _path(row)
    elements, header_problem = _header(path)
    frame = request.args.get("frame", "1")
    done = request.args.get("done", "")
    return render_template(
        "instance.html",
        row=row,
        line=line,
        uid_names=(_named(row.sop_class_uid), _named(row.transfer_syntax_uid)),
        events=services().pages.events(row),
        has_file=path is not None,
        elements=elements[:_MOST_ELEMENTS],
        left_out=max(len(elements) - _MOST_ELEMENTS, 0),
        header_problem=header_problem,
        frame=int(frame) if frame.isdecimal() and 0 < len(frame) < 7 and int(frame) > 0 else 1,
        frames=_frames(elements),
        undertaking=services().undertakings.find(int(done)) if done.isdecimal() and len(done) < 9 else None,
    )


@blueprint.get("/instances/<int:number>/frames/<int:frame>.png")
@needs_person
def picture(number: int, frame: int) -> Response:
    """A frame of it, from 1, drawn now and kept nowhere."""
    path = _path(_row(number))
    if path is None:
        abort(404, "Its file is not here any more.")
    try:
        drawn = render(path, frame)
    except NoPictureError as error:
        return make_response(str(error), 422, {"Content-Type": "text/plain; charset=utf-8"})
    return make_response(drawn.png, 200, {"Content-Type": "image/png", "X-Frames": str(drawn.frames)})


@blueprint.get("/live/session")
@needs_person
def live_session() -> Response:
    """Nothing, while the session is open: a page that shows a patient asks, and leaves when it is closed."""
    return make_response("", 204)


def _row(number: int) -> Row:
    row = services().pages.by_ids([number]).get(number) if number < 2**63 else None
    if row is None:
        abort(404, "No instance has that number.")
    return row


def _path(row: Row) -> Path | None:
    """Where its file is; None if it is away, or no plain file."""
    spool = services().spool
    folder = {State.INCOMING: spool.incoming, State.QUARANTINE: spool.quarantine.path}.get(row.state)
    if folder is None:
        return None
    for name in file_names(row.file_name):
        if "\0" in name or name.startswith("/") or ".." in name.split("/"):
            continue
        try:
            with parent_of(os.fspath(folder), name) as (parent, path):
                status = os.lstat(path) if parent is None else os.stat(path, dir_fd=parent, follow_symlinks=False)
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            return folder / name
    return None


def _named(uid: str) -> str:
    """A UID of the standard by its name (PS3.6 Annex A)."""
    if not uid:
        return "none"
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"


def _header(path: Path | None) -> tuple[list[Any], str]:
    """The elements of a file, and why there are none."""
    if path is None:
        return [], ""
    try:
        return read(path), ""
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a quarantined file, its page is there
        log.debug("header not read", reason=error)
        return [], "Its header cannot be read: it may be no DICOM file, or end in the middle."


def _frames(elements: list[Any]) -> int:
    for element in elements:
        if element.keyword == "NumberOfFrames" and element.depth == 0:
            text = str(element.value).strip().strip("'\"")
            return int(text) if text.isdecimal() and 0 < len(text) < 7 else 1
    return 1
