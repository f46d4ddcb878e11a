import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sandbox.running import RunningSandbox, running_sandbox


@pytest.fixture(scope="session")
def shared_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSandbox]:
    with running_sandbox(tmp_path_factory.mktemp("sandbox") / "instances") as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: RunningSandbox) -> RunningSandbox:
    """A real sandbox process that behaves and has nothing yet."""
    shared_sandbox.clear_rules()
    shared_sandbox.forget()
    return shared_sandbox


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], None]:
    """Waits until something holds; fails after 5 seconds."""

    def wait(holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not holds():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    return wait


@pytest.fixture
def together() -> Callable[..., list[Any]]:
    """Calls a function with each argument at the same time, and gives the results in order."""

    def call(function: Callable[[Any], Any], arguments: list[Any]) -> list[Any]:
        with ThreadPoolExecutor(len(arguments)) as pool:
            return list(pool.map(function, arguments))

    return call
