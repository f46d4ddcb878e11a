"""Fixtures of the browser tests."""

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.console_page import CHROMIUM, ConsolePage, Visit, browser
from support.fixtures import make_pipeline, sandbox
from support.pipeline import Pipeline

__all__ = ["make_pipeline", "sandbox"]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for the tests of a module."""
    if not os.access(CHROMIUM, os.X_OK):
        pytest.skip("needs the Debian package chromium")
    with browser() as running:
        yield running


@pytest.fixture
def serve(make_pipeline: Callable[..., Pipeline]) -> Iterator[Callable[..., ConsolePage]]:
    """Serves the page of a pipeline; it is stopped at the end."""
    served: list[ConsolePage] = []

    def start(pipeline: Pipeline | None = None, **settings: object) -> ConsolePage:
        served.append(ConsolePage(pipeline or make_pipeline("http://127.0.0.1:9/dicom-web"), **settings))
        return served[-1].start()

    yield start
    for one in served:
        one.stop()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """Visits a page with a browser of its own; at the end it has asked no other host and broken no policy."""
    contexts, visits = [], []

    def start(page: ConsolePage, **options: Any) -> Visit:
        contexts.append(chromium.new_context(locale="en-GB", ignore_https_errors=True, **options))
        visits.append(Visit(contexts[-1], page.url))
        return visits[-1]

    yield start
    for context in contexts:
        context.close()
    assert [wrong for one in visits for wrong in one.wrong] == []
