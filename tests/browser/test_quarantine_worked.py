"""The quarantine, as a person works through it: by keyboard, by mouse, on a phone, with and without scripts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from playwright.sync_api import expect

from console.users import Users
from support.console_page import ConsolePage, Visit, quarantined
from support.pipeline import Pipeline, wait_for

_Serve = Callable[..., ConsolePage]
_Visit = Callable[..., Visit]


@pytest.fixture
def pipeline(make_pipeline: Callable[..., Pipeline]) -> Pipeline:
    """One whose quarantine holds five instances of two senders and two causes."""
    pipeline = make_pipeline("http://127.0.0.1:9/dicom-web")
    quarantined(pipeline, 3, sender="FUNDUS1", cause="refused", answer="not a storable SOP class")
    quarantined(pipeline, 2, sender="OCT2", cause="too-large", patient_id="Q-1", study="1.2.826.8")
    return pipeline


def rows(page: Any) -> Any:
    return page.locator("table.rows tbody tr")


def test_one_is_filtered_chosen_and_released_by_keyboard_alone(
    pipeline: Pipeline, serve: _Serve, visit: _Visit
) -> None:
    """From the cause on the overview to the release; it leaves the table, and is owed again."""
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    page = seen.page
    page.get_by_role("link", name="Too large for the archive").focus()
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(2)
    page.get_by_label("Any text").focus()
    page.keyboard.type("q-1")
    page.keyboard.press("Enter")
    expect(rows(page)).to_have_count(2)
    assert "q-1" not in page.url
    # The columns are sorted by links, and say how.
    page.get_by_role("link", name="Sender").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("columnheader", name="Sender")).to_have_attribute("aria-sort", "descending")
    page.locator("table.rows input[name=id]").first.focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Release chosen").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("Released 1 of 1 instance.")).to_be_visible()
    expect(rows(page)).to_have_count(1)
    assert len(pipeline.incoming()) == 1
    assert len(pipeline.quarantined()) == 4


def test_all_that_the_filter_finds_are_discarded_after_a_question(
    pipeline: Pipeline, serve: _Serve, visit: _Visit
) -> None:
    """What came while the person thought about it stays."""
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    page = seen.page
    page.get_by_role("link", name="Refused by the archive").click()
    page.get_by_role("button", name="Discard all 3").click()
    expect(page.get_by_role("heading", name="Discard 3 instances?")).to_be_visible()
    assert len(pipeline.quarantined()) == 5
    late = quarantined(pipeline, 1, cause="refused")
    page.get_by_role("button", name="Discard 3 instances").click()
    expect(page.get_by_text("Discarded 3 of 3 instances.")).to_be_visible()
    expect(rows(page)).to_have_count(1)
    assert set(late) < pipeline.quarantined()
    assert len(pipeline.quarantined()) == 3


def test_the_table_follows_what_others_do_but_moves_nothing_under_who_chooses(
    pipeline: Pipeline, serve: _Serve, visit: _Visit
) -> None:
    """Live while nobody has chosen anything; then it says that there is news."""
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    seen.go("/quarantine")
    page = seen.page
    page.evaluate("window.notReloaded = true")
    quarantined(pipeline, 1)
    expect(rows(page)).to_have_count(6, timeout=15_000)
    page.get_by_label("Choose number 1").check()
    quarantined(pipeline, 1)
    expect(page.get_by_text("The quarantine has changed since.")).to_be_visible(timeout=15_000)
    expect(rows(page)).to_have_count(6)
    expect(page.get_by_label("Choose number 1")).to_be_checked()
    assert page.evaluate("window.notReloaded")


def test_an_instance_has_its_answer_its_time_line_and_is_found(
    pipeline: Pipeline, serve: _Serve, visit: _Visit
) -> None:
    """By its patient's ID, and from there to all that is known of it."""
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    page = seen.page
    page.get_by_role("link", name="Search").click()
    page.get_by_label("Patient ID").fill("P-47*")
    page.get_by_role("button", name="Search").click()
    expect(rows(page)).to_have_count(3)
    assert "P-47" not in page.url
    rows(page).first.get_by_role("link").click()
    expect(page.get_by_role("heading", name="CT in quarantine")).to_be_visible()
    expect(page.get_by_label("Answer of the archive")).to_have_text("not a storable SOP class")
    expect(page.locator("ol.line li")).to_have_count(2)
    expect(page.locator("table.header")).to_contain_text("PatientID")
    picture = page.locator(".picture img")
    wait_for(lambda: picture.evaluate("one => one.naturalWidth"), what="the picture")
    page.go_back()
    expect(rows(page)).to_have_count(3)


def test_the_pages_work_without_scripts(pipeline: Pipeline, serve: _Serve, visit: _Visit) -> None:
    """Signing in by pasting the link, filtering, releasing, discarding: by forms alone."""
    console = serve(pipeline)
    seen = visit(console, java_script_enabled=False)
    seen.go("/quarantine")
    page = seen.page
    page.get_by_role("link", name="Sign in").first.click()
    page.get_by_label("Link or code").fill(console.link())
    page.get_by_role("button", name="Sign in").click()
    page.get_by_label("Sender").select_option("OCT2")
    page.get_by_role("button", name="Filter").click()
    expect(rows(page)).to_have_count(2)
    page.locator("table.rows input[name=id]").first.check()
    page.get_by_role("button", name="Discard chosen").click()
    page.get_by_role("button", name="Discard 1 instance").click()
    expect(page.get_by_text("Discarded 1 of 1 instance.")).to_be_visible()
    page.locator("table.rows input[name=id]").first.check()
    page.get_by_role("button", name="Release chosen").click()
    expect(page.get_by_text("Released 1 of 1 instance.")).to_be_visible()
    expect(page.get_by_text("Nothing in quarantine is like that.")).to_be_visible()


def test_a_page_left_open_hides_its_patients_in_time(pipeline: Pipeline, serve: _Serve, visit: _Visit) -> None:
    """Signed out elsewhere, or idle for too long: the table leaves the screen by itself."""
    console = serve(pipeline)
    seen = visit(console)
    seen.sign_in(console.link())
    seen.go("/quarantine")
    expect(seen.page.get_by_text("P-4711").first).to_be_visible()
    other = seen.page.context.new_page()
    other.goto(console.url)
    other.get_by_role("button", name="Sign out").click()
    expect(seen.page.get_by_role("heading", name="Sign in")).to_be_visible(timeout=15_000)


def test_the_token_of_a_link_is_left_nowhere_in_the_browser(pipeline: Pipeline, serve: _Serve, visit: _Visit) -> None:
    """Neither in the address, nor in the history, nor in what an address was sent to."""
    console = serve(pipeline)
    seen = visit(console)
    asked: list[str] = []
    seen.page.on("request", lambda request: asked.append(request.url))
    link = console.link()
    token = link.partition("#")[2]
    seen.sign_in(link)
    seen.page.go_back()
    # Whether the form's page has an entry of its own there depends on how quickly it was sent.
    assert seen.page.url in {f"{console.url}/sign-in", "about:blank"}
    assert all(token not in url for url in asked if url != link)
    assert token not in console.log()


def test_over_tls_with_a_password_the_forms_work_too(
    pipeline: Pipeline, serve: _Serve, visit: _Visit, tmp_path: Path
) -> None:
    """The browser shows where a form comes from, and its cookie is for TLS alone."""
    certificate = trustme.CA().issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    Users(tmp_path / "users").put("anna", "correct horse battery")
    console = serve(
        pipeline,
        users_file=tmp_path / "users",
        tls_certificate=tmp_path / "cert.pem",
        tls_key=tmp_path / "key.pem",
    )
    seen = visit(console)
    seen.go("/search")
    page = seen.page
    page.get_by_label("Name").fill("anna")
    page.get_by_label("Password").fill("correct horse battery")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Search")).to_be_visible()
    seen.go("/quarantine")
    page.locator("table.rows input[name=id]").first.check()
    page.get_by_role("button", name="Release chosen").click()
    expect(page.get_by_text("Released 1 of 1 instance.")).to_be_visible()
    assert [cookie["secure"] for cookie in page.context.cookies()] == [True]
