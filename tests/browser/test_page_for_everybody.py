"""The pages on a phone, in the dark, for people who cannot see them or use no mouse."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import expect

from support.console_page import ConsolePage, Visit, quarantined
from support.pipeline import Pipeline

_PATHS = ["/", "/?span=day", "/quarantine", "/search", "/instances/1", "/sign-in", "/nothing"]


@pytest.fixture
def seen(
    make_pipeline: Callable[..., Pipeline],
    serve: Callable[..., ConsolePage],
    visit: Callable[..., Visit],
    request: pytest.FixtureRequest,
) -> Iterator[Visit]:
    """A visit by somebody signed in, with something in quarantine; the test's parameter is how the browser is."""
    pipeline = make_pipeline("http://127.0.0.1:9/dicom-web")
    quarantined(pipeline, 2, answer="A" * 300, patient_id="P" * 60)
    console = serve(pipeline)
    seen = visit(console, **getattr(request, "param", {}))
    seen.sign_in(console.link())
    return seen


@pytest.mark.parametrize("seen", [{"viewport": {"width": 360, "height": 740}}], indirect=True)
def test_on_a_phone_nothing_is_wider_than_the_screen(seen: Visit) -> None:
    """At 360 pixels no page is scrolled sideways, and what is tapped is large enough."""
    for path in _PATHS:
        seen.go(path)
        wide = seen.page.evaluate(
            "[...document.querySelectorAll('body *')].filter(one => !one.closest('.scroll, .unseen, thead, .skip') &&"
            " one.getBoundingClientRect().right > innerWidth + 0.5).map(one => one.outerHTML.slice(0, 80))"
        )
        assert wide == [], path
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= 360, path
        small = seen.page.evaluate(
            "[...document.querySelectorAll('button, select, input:not([type=hidden], [type=checkbox])')]"
            ".filter(one => one.getBoundingClientRect().height < 43).map(one => one.outerHTML.slice(0, 80))"
        )
        assert small == [], path


@pytest.mark.parametrize(
    "seen", [{"color_scheme": "light"}, {"color_scheme": "dark"}], indirect=True, ids=["light", "dark"]
)
def test_axe_finds_nothing_wrong(seen: Visit) -> None:
    """Names, labels, landmarks, roles, contrast: WCAG 2.1 AA and axe's best practices, on every page."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for path in _PATHS:
        seen.go(path)
        found = axe.run(seen.page, options={"resultTypes": ["violations"]})
        wrong = [(one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found.response["violations"]]
        assert wrong == [], path


def test_the_dark_page_is_dark(
    chromium: Any, make_pipeline: Callable[..., Pipeline], serve: Callable[..., ConsolePage]
) -> None:
    """As the system of the person wishes."""
    console = serve(make_pipeline("http://127.0.0.1:9/dicom-web"))
    grounds = {}
    for scheme in ("light", "dark"):
        context = chromium.new_context(color_scheme=scheme)
        page = context.new_page()
        page.goto(console.url)
        colour = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
        grounds[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
        context.close()
    assert grounds["dark"] < 150
    assert grounds["light"] > 600


def test_everything_is_reached_by_tab_and_the_focus_is_seen(seen: Visit) -> None:
    """The skip link comes first; every link, button and field of the quarantine gets a visible focus in turn."""
    seen.go("/quarantine")
    page = seen.page
    wanted = page.evaluate(
        "[...document.querySelectorAll('a[href], button, select, input:not([type=hidden])')]"
        ".filter(one => one.checkVisibility()).length"
    )
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    reached = 0
    for _ in range(wanted):
        shown = page.evaluate(
            "(() => { const one = document.activeElement, style = getComputedStyle(one);"
            " const wide = parseFloat(style.outlineWidth);"
            " return one !== document.body && style.outlineStyle !== 'none' && wide >= 2; })()"
        )
        assert shown, page.evaluate("document.activeElement.outerHTML")
        reached += 1
        page.keyboard.press("Tab")
    assert reached == wanted


def test_only_the_verdict_is_read_out_by_itself(seen: Visit) -> None:
    """One live region, polite, and it holds its peace while nothing changes."""
    seen.go("/")
    page = seen.page
    lives = page.evaluate(
        "[...document.querySelectorAll('[aria-live], [role=status], [role=alert]')].map(one => one.id)"
    )
    assert lives == ["panel-verdict"]
    page.evaluate(
        "window.changes = 0; new MutationObserver(() => { window.changes += 1; })"
        ".observe(document.getElementById('panel-verdict'), {childList: true, subtree: true, characterData: true})"
    )
    with page.expect_response("**/live/overview*"):
        pass
    with page.expect_response("**/live/overview*"):
        pass
    assert page.evaluate("window.changes") == 0
