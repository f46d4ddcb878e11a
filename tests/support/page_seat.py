"""The web page without a server, and without a browser."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from common.config import load
from common.ledger import Ledger
from common.ledger_reader import LedgerReader
from common.spool import Spool
from console.activity import History
from console.links import Links, make_token
from console.web import create_app

HOST = "http://127.0.0.1:11180"


class Seat:
    """The app on a spool of its own, and a browser's cookies."""

    def __init__(self, folder: Path, **settings: object) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.ini = folder / "pipeline.ini"
        lines = [f"{key} = {value}" for key, value in settings.items()]
        self.ini.write_text("\n".join(["[spool]", "directory = spool", "[console]", *lines, ""]))
        self.config = load(self.ini)
        self.spool = Spool(self.config.spool.directory)
        self.spool.prepare()
        self.ledger = Ledger(self.spool.ledger)
        self.links = Links(self.spool.directory)
        self.links.publish()
        self.app: Flask = create_app(self.config, History(LedgerReader(self.spool.ledger)), links=self.links)
        self.client: FlaskClient = self.app.test_client()

    def get(self, path: str, **more: Any) -> TestResponse:
        """Ask for a path."""
        return self.client.get(path, **{"base_url": HOST, **more})

    def token(self, path: str = "/sign-in") -> str:
        """The token against CSRF of a page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def post(self, path: str, **form: object) -> TestResponse:
        """Send a form, with the token against CSRF."""
        return self.client.post(path, base_url=HOST, data={"csrf_token": self.token(), **form})

    def sign_in(self, **form: object) -> TestResponse:
        """Sign in by a link."""
        return self.post("/sign-in", **{"token": make_token(self.spool.directory, "anna"), **form})


@pytest.fixture
def make_seat(tmp_path: Path) -> Iterator[Callable[..., Seat]]:
    """Makes seats with settings of [console]."""
    made: list[Seat] = []

    def make(**settings: object) -> Seat:
        made.append(Seat(tmp_path / f"seat-{len(made)}", **settings))
        return made[-1]

    yield make
    for one in made:
        one.ledger.close()


@pytest.fixture
def seat(make_seat: Callable[..., Seat]) -> Seat:
    """One on loopback, where links are the way to sign in."""
    return make_seat()
