"""What the web page owes to the people behind the data: who may ask it, and what it shows to whom."""

import re
import time
from collections.abc import Callable

import pytest

from common.instance import Instance
from common.ledger import Ledger
from common.presence import FOLDER
from common.records import Cause, Outcome
from console.links import VALID_SECONDS, Links, make_token
from console.users import Users
from console.web.attempts import Attempts
from console.web.services import KEY
from support.page_seat import HOST, Seat, make_seat, seat

__all__ = ["make_seat", "seat"]

PATIENT = "PAT-4711"
DROPPED = "Mustermann_Erika.dcm"
PAGES = [
    "/",
    "/quarantine",
    "/search",
    "/instances/1",
    "/instances/1/frames/1.png",
    "/sign-in",
    "/nothing",
    "/static/page.css",
]


def quarantine(seat: Seat, name: str = DROPPED, patient_id: str = PATIENT) -> int:
    """Put a file into quarantine; its number."""
    (seat.spool.incoming / name).write_bytes(b"bytes")
    ledger: Ledger = seat.ledger
    ledger.adopt(name, Instance("1.2", "1.2.3", "1.2.840.10008.1.2.1", patient_id, "1.9", "1.9.1", "CT"), 5)
    with seat.spool.quarantine.reserve(name) as slot:
        slot.write_reason({"cause": "refused", "detail": "no", "answer": "the answer of the archive"})
        ledger.quarantined(Outcome(name, 409, Cause.REFUSED, "no"), slot.name, attempts=1)
        slot.move()
    return ledger.rows([name])[name].id


# Headers


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_every_answer_has_the_headers(seat: Seat, path: str, method: str) -> None:
    """Errors, redirects and files too."""
    answer = seat.client.open(path, method=method, base_url=HOST)
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    if not path.startswith("/static"):
        assert answer.headers["Cache-Control"] == "no-store"


def test_no_page_has_scripts_or_styles_in_it(seat: Seat) -> None:
    """The policy forbids them, and a page that needs them would be broken."""
    quarantine(seat)
    seat.sign_in()
    for path in ("/", "/quarantine", "/search", "/instances/1", "/sign-in", "/nothing"):
        text = seat.get(path).text
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", text), path
        assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", text)), path
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', text), path


# Host


@pytest.mark.parametrize(
    "host", ["127.0.0.1:11180", "localhost:11180", "LOCALHOST", "[::1]:11180", "127.9.9.9", "seat.example.org"]
)
def test_the_names_of_the_page_are_taken(make_seat: Callable[..., Seat], host: str) -> None:
    """Loopback and those of host_names, with and without port."""
    seat = make_seat(host_names="seat.example.org")
    assert seat.get("/", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "a@127.0.0.1",
        "10.0.0.1",
        "127.0.0.1/x",
        "[::1",
    ],
)
@pytest.mark.parametrize("path", ["/", "/live/overview", "/static/page.css", "/nothing"])
def test_another_name_is_refused(seat: Seat, host: str, path: str) -> None:
    """Whatever is asked for: a name that points here may be an attacker's (DNS rebinding)."""
    answer = seat.get(path, headers={"Host": host})
    assert answer.status_code == 421
    assert "All is well" not in answer.text


def test_what_machines_ask_for_has_any_name(seat: Seat) -> None:
    """A load balancer knows an address and no name; nothing else is given to it."""
    for path in ("/healthz", "/readyz"):
        assert seat.get(path, headers={"Host": "10.0.0.1"}).status_code != 421


# CSRF


def test_no_form_is_taken_without_its_token(seat: Seat) -> None:
    """Each way to send something is tried, so that a new one cannot be forgotten."""
    number = quarantine(seat)
    seat.sign_in()
    posts = [rule.rule for rule in seat.app.url_map.iter_rules() if "POST" in (rule.methods or ())]
    assert len(posts) >= 6
    for path in posts:
        data = {"act": "discard", "id": str(number), "sure": "yes", "token": "x"}
        answer = seat.client.post(path, base_url=HOST, data=data)
        assert answer.status_code == 400, path
    assert (seat.spool.quarantine.path / DROPPED).exists()


# Signing in


def test_a_link_signs_in_once(seat: Seat) -> None:
    """And not a second time, in another browser either."""
    token = make_token(seat.spool.directory, "anna")
    assert seat.sign_in(token=token).status_code == 303
    assert "anna" in seat.get("/").text
    other = seat.app.test_client()
    found = re.search(r'csrf_token" value="([^"]+)', other.get("/sign-in", base_url=HOST).text)
    assert found is not None
    answer = other.post("/sign-in", base_url=HOST, data={"csrf_token": found[1], "token": token})
    assert answer.status_code == 403


def test_a_pasted_link_is_as_good_as_its_token(seat: Seat) -> None:
    """Without scripts one pastes what the command printed."""
    link = f"{HOST}/sign-in#{make_token(seat.spool.directory, 'anna')}"
    assert seat.sign_in(token=link).status_code == 303


def test_a_link_is_good_for_minutes_and_for_one_run(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither after five minutes nor after a restart, nor made up."""
    token = make_token(seat.spool.directory, "anna")
    assert Links(seat.spool.directory).redeem(token) is None
    middle = len(token) // 2  # the last character has bits that count for nothing
    other = "A" if token[middle] != "A" else "B"
    assert seat.links.redeem(f"{token[:middle]}{other}{token[middle + 1 :]}") is None
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + VALID_SECONDS + 2)
    assert seat.links.redeem(token) is None


def test_the_key_is_for_its_owner_alone(seat: Seat) -> None:
    """It is in processes/, 0600, whatever the umask; and is taken away at the end."""
    key = seat.spool.directory / FOLDER / "sign-in.key"
    assert key.stat().st_mode & 0o777 == 0o600
    seat.links.withdraw()
    assert not key.exists()


def test_users_sign_in_by_password_and_by_no_link(make_seat: Callable[..., Seat]) -> None:
    """The right password of a known user, nothing else."""
    seat = make_seat(users_file="users")
    assert seat.config.console.users_file is not None
    Users(seat.config.console.users_file).put("anna", "correct horse battery")
    assert seat.post("/sign-in", name="anna", password="wrong").status_code == 403
    assert seat.post("/sign-in", name="nobody", password="correct horse battery").status_code == 403
    assert seat.sign_in().status_code == 403
    assert seat.post("/sign-in", name="anna", password="correct horse battery").status_code == 303
    assert "Sign out" in seat.get("/").text


def test_who_is_taken_out_is_signed_out(make_seat: Callable[..., Seat]) -> None:
    """And so is who came with a password that was changed since."""
    seat = make_seat(users_file="users")
    assert seat.config.console.users_file is not None
    users = Users(seat.config.console.users_file)
    for change in (lambda: users.remove("anna"), lambda: users.put("anna", "another password")):
        users.put("anna", "correct horse battery")
        seat.post("/sign-in", name="anna", password="correct horse battery")
        assert seat.get("/search").status_code == 200
        change()
        assert seat.get("/search").status_code == 303


def test_hashes_are_scrypts_and_nobody_else_reads_them(make_seat: Callable[..., Seat]) -> None:
    """No password is in the file."""
    seat = make_seat(users_file="users")
    path = seat.config.console.users_file
    assert path is not None
    Users(path).put("anna", "correct horse battery")
    assert path.read_text().startswith("anna:scrypt:32768:8:1$")
    assert path.stat().st_mode & 0o777 == 0o600


def test_attempts_are_few(seat: Seat) -> None:
    """After ten that failed, even a good link has to wait, and is told how long."""
    for _ in range(10):
        assert seat.post("/sign-in", token="wrong").status_code == 403
    answer = seat.sign_in()
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 300


def test_attempts_are_forgotten_in_time() -> None:
    """Each address has its own; success clears them; so does time."""
    now = [0.0]
    attempts = Attempts(lambda: now[0])
    for _ in range(10):
        attempts.begin("a")
    assert attempts.wait_seconds("a") == 300
    assert attempts.wait_seconds("b") == 0
    now[0] = 301
    assert attempts.wait_seconds("a") == 0
    attempts.begin("a")
    attempts.succeeded("a")
    for address in range(200):
        attempts.begin(str(address))
    assert attempts.wait_seconds("new") == 300


# Sessions


def test_the_cookie_is_for_this_page_alone(make_seat: Callable[..., Seat]) -> None:
    """HttpOnly and SameSite=Strict; it says neither who nor what."""
    seat = make_seat()
    cookie = seat.sign_in().headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "anna" not in cookie


def test_signing_out_is_final(seat: Seat) -> None:
    """The cookie of before opens nothing any more."""
    seat.sign_in()
    cookie = seat.client.get_cookie("stowgate-11180", domain="127.0.0.1")
    assert cookie is not None
    seat.client.post("/sign-out", base_url=HOST, data={"csrf_token": seat.token("/")})
    seat.client.set_cookie("stowgate-11180", cookie.value, domain="127.0.0.1")
    assert seat.get("/search").status_code == 303


def test_an_idle_session_ends_and_what_the_page_asks_does_not_keep_it(
    make_seat: Callable[..., Seat], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After session_minutes without a person; a page that shows a patient is led away then."""
    seat = make_seat(session_minutes=1)
    now = [time.monotonic()]
    monkeypatch.setattr(seat.app.extensions[KEY].sessions, "_clock", lambda: now[0])
    seat.sign_in()
    for _ in range(3):
        now[0] += 40
        assert seat.get("/search").status_code == 200
    for _ in range(2):
        now[0] += 31
        answer = seat.get("/live/session", headers={"HX-Request": "true"})
    assert answer.status_code == 401
    assert answer.headers["HX-Redirect"] == "/sign-in"


# Redirects


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "javascript:alert(1)",
        "/nothing",
        "",
        "/sign-in",
        "/quarantine\r\nX: y",
        "http:evil.example",
        "/%2f%2fevil.example",
        "///evil.example",
    ],
)
def test_signing_in_leads_to_no_other_site(seat: Seat, target: str) -> None:
    """What is no page of ours leads to the overview."""
    assert seat.sign_in(next=target).headers["Location"] == "/"


def test_signing_in_leads_back(seat: Seat) -> None:
    """To the page that was asked for."""
    answer = seat.get("/instances/7?frame=2")
    assert answer.status_code == 303
    assert answer.headers["Location"] == "/sign-in?next=/instances/7?frame%3D2"
    assert seat.sign_in(next="/instances/7?frame=2").headers["Location"] == "/instances/7?frame=2"


# What is shown to whom


def test_without_a_name_no_patient_is_shown(seat: Seat) -> None:
    """Causes and senders are shown; patient IDs, file names and answers are hidden, and not looked for."""
    number = quarantine(seat)
    texts = [seat.get(path).text for path in ("/", "/live/overview", "/quarantine", "/live/quarantine")]
    assert "Refused by the archive" in texts[2]
    for text in texts:
        assert PATIENT not in text
        assert "Mustermann" not in text
        assert "the answer of the archive" not in text
    for path in (f"/instances/{number}", f"/instances/{number}/frames/1.png", "/search", "/live/session"):
        answer = seat.get(path)
        assert answer.status_code in {303, 401}
        assert PATIENT not in answer.text
    # Neither by the order nor by a text can one guess.
    assert "sort=patient" not in seat.get("/quarantine?sort=patient").text
    seat.post("/quarantine/filter", text=PATIENT)
    assert "Refused by the archive" in seat.get("/quarantine?text=guess").text


def test_with_a_name_they_are(seat: Seat) -> None:
    """All of it, since that is the work of who signs in."""
    number = quarantine(seat)
    seat.sign_in()
    assert PATIENT in seat.get("/quarantine").text
    assert "the answer of the archive" in seat.get("/quarantine").text
    assert "Mustermann" in seat.get(f"/instances/{number}").text


def test_without_a_name_nothing_is_done(seat: Seat) -> None:
    """Neither released nor discarded nor probed."""
    number = quarantine(seat)
    for act in ("release", "discard", "release-all", "discard-all"):
        answer = seat.post("/quarantine/act", act=act, id=number, sure="yes", upto="99")
        assert answer.headers["Location"] == "/sign-in"
    assert seat.post("/probe").headers["Location"] == "/sign-in"
    assert (seat.spool.quarantine.path / DROPPED).exists()
    assert not (seat.spool.directory / FOLDER / "probe-now").exists()


def test_beyond_this_machine_nothing_is_shown_without_a_name(make_seat: Callable[..., Seat]) -> None:
    """Not even whether all is well."""
    seat = make_seat(host="0.0.0.0", users_file="users", host_names="seat.example.org")  # noqa: S104
    for path in ("/", "/quarantine", "/live/overview", "/live/quarantine"):
        assert seat.get(path).status_code == 303
    assert seat.get("/sign-in").status_code == 200
    assert seat.get("/static/page.css").status_code == 200


def test_what_is_searched_for_stands_in_no_address(seat: Seat) -> None:
    """A random word stands for it, which means nothing to another session."""
    quarantine(seat)
    seat.sign_in()
    location = seat.post("/search", patient_id=PATIENT).headers["Location"]
    assert PATIENT not in location
    assert PATIENT in seat.get(location).text
    filtered = seat.post("/quarantine/filter", text=PATIENT).headers["Location"]
    assert PATIENT not in filtered
    seat.client = seat.app.test_client()
    seat.sign_in()
    assert PATIENT not in seat.get(location).text


def test_a_large_body_is_refused(seat: Seat) -> None:
    """Nobody fills the memory with a form."""
    assert seat.post("/sign-in", token="x" * 300_000).status_code == 413


def test_a_failure_says_nothing_of_what_failed(seat: Seat, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception can quote a dataset; the page does not."""
    seat.sign_in()

    def fail(*_: object, **__: object) -> None:
        raise ValueError(PATIENT)

    monkeypatch.setattr("console.web.search.query_of", fail)
    location = seat.post("/search", uid="1.2.3").headers["Location"]
    answer = seat.get(location)
    assert answer.status_code == 500
    assert PATIENT not in answer.text


def test_a_ledger_that_cannot_be_read_is_told(seat: Seat) -> None:
    """The overview says so; other pages answer 503, and none of them breaks."""
    seat.sign_in()
    seat.ledger.close()
    for path in seat.spool.directory.glob("ledger.db*"):
        path.unlink()
    seat.spool.ledger.write_bytes(b"no database" * 1000)
    assert "Not all is well" in seat.get("/").text
    assert seat.get("/quarantine").status_code == 503
