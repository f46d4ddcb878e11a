"""Fixtures of the integration and acceptance tests: a sandbox, an Orthanc, pipelines that are stopped at the end."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.running import RunningSandbox, running_sandbox
from support.orthanc import Orthanc
from support.pipeline import Pipeline


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[RunningSandbox]:
    """A sandbox of its own."""
    with running_sandbox(tmp_path / "sandbox") as running:
        yield running


@pytest.fixture
def make_pipeline(tmp_path: Path) -> Iterator[Callable[..., Pipeline]]:
    """Makes pipelines in folders of their own; what they started is stopped at the end."""
    made: list[Pipeline] = []

    def make(url: str, **settings: dict[str, object]) -> Pipeline:
        made.append(Pipeline(tmp_path / f"pipeline-{len(made)}", url, **settings))
        return made[-1]

    yield make
    for pipeline in made:
        pipeline.stop()


@pytest.fixture
def make_orthanc(tmp_path: Path) -> Iterator[Callable[..., Orthanc]]:
    """Makes and starts Orthancs; they are stopped at the end."""
    made: list[Orthanc] = []

    def make(**options: Any) -> Orthanc:
        made.append(Orthanc(tmp_path / f"orthanc-{len(made)}", **options))
        made[-1].start()
        return made[-1]

    yield make
    for orthanc in made:
        orthanc.stop()
