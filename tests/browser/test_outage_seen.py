"""An outage, as the person at the page lives through it."""

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from sandbox.running import RunningSandbox
from support.console_page import ConsolePage, Visit
from support.pipeline import Pipeline
from support.samples import make_instance


def test_the_page_tells_of_an_outage_and_of_its_end_without_being_reloaded(
    make_pipeline: Callable[..., Pipeline],
    sandbox: RunningSandbox,
    serve: Callable[..., ConsolePage],
    visit: Callable[..., Visit],
) -> None:
    """All is well; the archive breaks, and the page says so with the error; it is mended, probed now, and all goes."""
    pipeline = make_pipeline(sandbox.url, uploader={"backoff_initial_seconds": 60, "backoff_max_seconds": 300})
    pipeline.start("receiver")
    pipeline.start("uploader")
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    page = seen.page
    verdict = page.locator("#panel-verdict")
    expect(verdict).to_contain_text("All is well.")
    page.evaluate("window.notReloaded = true")

    rule = sandbox.add_rule("status=503,body=down for maintenance")
    make_instance(pipeline.spool.incoming / "a.dcm")
    expect(verdict).to_contain_text("the destination is paused", timeout=30_000)
    expect(page.locator("#panel-destination")).to_contain_text("503")
    expect(page.locator("#panel-destination")).to_contain_text("Next probe")
    expect(page.locator("#panel-numbers")).to_contain_text("Waiting1")

    sandbox.remove_rule(rule)
    page.get_by_role("button", name="Probe now").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("was asked to probe")).to_be_visible()
    expect(verdict).to_contain_text("All is well.", timeout=30_000)
    expect(page.locator("#panel-destination")).to_contain_text("open")
    pipeline.wait_empty()
    assert len(sandbox.instances()) == 1


def test_nothing_of_the_page_is_reloaded_while_it_is_live(
    make_pipeline: Callable[..., Pipeline],
    serve: Callable[..., ConsolePage],
    visit: Callable[..., Visit],
    tmp_path: Path,
) -> None:
    """A receiver that starts is seen by itself, and the focus stays where it was."""
    pipeline = make_pipeline("http://127.0.0.1:9/dicom-web")
    console = serve(pipeline)
    seen = visit(console)
    seen.go("/")
    page = seen.page
    expect(page.locator("#panel-verdict")).to_contain_text("Not all is well")
    page.evaluate("window.notReloaded = true")
    page.locator("#panel-activity summary").first.click()
    page.get_by_role("link", name="Last day").focus()
    pipeline.start("receiver")
    expect(page.locator("#panel-machine")).to_contain_text("receiver", timeout=15_000)
    assert page.evaluate("window.notReloaded")
    assert page.evaluate("document.activeElement.textContent") == "Last day"
    assert page.locator("#panel-activity details").first.get_attribute("open") is not None
