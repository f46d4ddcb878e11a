"""How notices get to people: by a real HTTP server, by a real mail server, over failures and restarts."""

import contextlib
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from common import config as settings
from common import logs
from common.config import Config, NotifyConfig
from common.ledger import Ledger
from common.ledger_reader import LedgerReader
from common.presence import Presence, processes
from common.settings import LoggingConfig
from common.settings_console import MailSecurity, WebhookFormat
from common.spool import Spool
from console.activity import History
from console.notices.channels import UndeliveredError
from console.notices.mail import Mail
from console.notices.memory import Memory
from console.notices.outbox import Outbox
from console.notices.signs import Level, Sign
from console.notices.telling import Change, Line, Notice, Seen, Told
from console.notices.webhook import Webhook
from console.notices.worker import Notices
from console.overview import Severity
from support.people import HookServer, MailServer
from support.pipeline import ROOT, wait_for
from support.programs import free_port

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
SECRET = "T000-B000-hunter2"


def notice(
    text: str = "The destination is paused (HTTP 503): busy.", title: str = "the destination is paused"
) -> Notice:
    line = Line("paused", Change.NEW, Severity.ERROR, title, text, "Nothing is lost.", NOW - timedelta(minutes=5))
    return Notice("0123abcd", NOW, (line,))


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """A certificate authority, whose certificate is in ca.pem."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def context(authority: trustme.CA) -> ssl.SSLContext:
    """A server's, for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


# --- The web hook


def test_a_notice_is_posted_as_json(tmp_path: Path, context: ssl.SSLContext) -> None:
    """With a text for chats, and what machines want to know; the certificate is verified by ca_bundle."""
    with HookServer(context).running() as server:
        url = f"https://127.0.0.1:{server.port}/hooks/{SECRET}?x=1"
        Webhook(NotifyConfig(webhook_url=url, ca_bundle=tmp_path / "ca.pem"), "gw1").send(notice())
    ((path, document),) = server.posted
    assert path == f"/hooks/{SECRET}?x=1"
    assert document["text"].startswith("Stowgate on gw1, 2026-03-01 03:00:00 UTC\n\n[error] The destination is paused")
    assert {key: value for key, value in document.items() if key != "text"} == {
        "product": "stowgate",
        "version": 1,
        "id": "0123abcd",
        "kind": "trouble",
        "host": "gw1",
        "at": "2026-03-01T03:00:00.000000Z",
        "troubles": [
            {
                "key": "paused",
                "change": "new",
                "severity": "error",
                "title": "the destination is paused",
                "text": "The destination is paused (HTTP 503): busy.",
                "advice": "Nothing is lost.",
                "since": "2026-03-01T02:55:00.000000Z",
            }
        ],
    }


def test_teams_gets_a_card() -> None:
    """A message with one Adaptive Card: who and when, then each trouble with its advice; nothing commands the chat."""
    with HookServer().running() as server:
        url = f"http://127.0.0.1:{server.port}/x"
        Webhook(NotifyConfig(webhook_url=url, webhook_format=WebhookFormat.TEAMS), "gw1").send(
            notice("paused: <at>all</at>")
        )
    ((_, document),) = server.posted
    assert document["type"] == "message"
    (attachment,) = document["attachments"]
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attachment["content"]["type"] == "AdaptiveCard"
    assert {block["type"] for block in attachment["content"]["body"]} == {"TextBlock"}
    assert all(block["wrap"] for block in attachment["content"]["body"])
    assert [block["text"] for block in attachment["content"]["body"]] == [
        "Stowgate on gw1, 2026-03-01 03:00:00 UTC",
        "[error] paused: (at)all(/at)\n\nNothing is lost.\n\nSince 2026-03-01 02:55:00 UTC.",
    ]


def test_a_chat_is_not_commanded_by_an_archive() -> None:
    """What an archive says of itself mentions nobody and is no link."""
    with HookServer().running() as server:
        Webhook(NotifyConfig(webhook_url=f"http://127.0.0.1:{server.port}/x"), "gw1").send(
            notice("paused: <!channel> @all `rm`\nforged line")
        )
    ((_, document),) = server.posted
    assert "paused: (!channel) (at)all 'rm'\\nforged line" in document["text"]


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 410, 429, 500, 503])
def test_what_is_no_success_is_no_delivery(status: int) -> None:
    """No redirect is followed, and nothing of the URL is said."""
    with HookServer().running() as server:
        server.status = status
        server.location = f"http://127.0.0.1:{server.port}/elsewhere" if status < 400 else ""
        with pytest.raises(UndeliveredError, match=f"expected HTTP 2xx, found {status}") as caught:
            Webhook(NotifyConfig(webhook_url=f"http://127.0.0.1:{server.port}/{SECRET}"), "gw1").send(notice())
    assert len(server.posted) == 1
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_strange_certificate_gets_nothing(context: ssl.SSLContext) -> None:
    """Neither the path nor the document."""
    with (
        HookServer(context).running() as server,
        pytest.raises(UndeliveredError, match="expected a good certificate"),
    ):
        Webhook(NotifyConfig(webhook_url=f"https://127.0.0.1:{server.port}/{SECRET}"), "gw1").send(notice())
    assert server.posted == []


def test_nobody_there() -> None:
    """Nor is that said with the URL."""
    with pytest.raises(UndeliveredError, match="no connection"):
        Webhook(NotifyConfig(webhook_url=f"http://127.0.0.1:{free_port()}/{SECRET}"), "gw1").send(notice())


# --- Mail


def mail(server: MailServer, **more: Any) -> Mail:
    settings = {
        "mail_server": "127.0.0.1",
        "mail_port": server.port,
        "mail_from": "stowgate@hospital.example",
        "mail_to": ("anna@hospital.example", "night@hospital.example"),
    }
    return Mail(NotifyConfig(**(settings | more)), "gw1")


@pytest.mark.parametrize("security", [MailSecurity.STARTTLS, MailSecurity.TLS])
def test_a_notice_is_mailed(tmp_path: Path, context: ssl.SSLContext, security: MailSecurity) -> None:
    """To all, as plain text with a date and an ID, after signing in under TLS."""
    with MailServer(
        context, starttls=security is MailSecurity.STARTTLS, user=("gate", "pass word")
    ).running() as server:
        way = mail(
            server,
            ca_bundle=tmp_path / "ca.pem",
            mail_security=security,
            mail_username="gate",
            mail_password="pass word",
        )
        way.send(notice())
    ((to, message),) = server.messages
    assert to == ["anna@hospital.example", "night@hospital.example"]
    assert message["Subject"] == "Stowgate on gw1: the destination is paused"
    assert message["From"] == "Stowgate <stowgate@hospital.example>"
    assert message["To"] == "anna@hospital.example, night@hospital.example"
    assert message["Message-ID"] == "<stowgate-0123abcd@hospital.example>"
    assert message["Date"].datetime == NOW
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"
    assert "The destination is paused (HTTP 503): busy.\nNothing is lost." in message.get_content().replace("\r", "")


def test_no_text_becomes_a_header() -> None:
    """Line ends in what an archive or a machine's name says stay in their line."""
    with MailServer().running() as server:
        way = mail(server, mail_security=MailSecurity.NONE)
        way._host = "gw1\r\nBcc: evil@x.example"
        way.send(notice("busy\r\n.\r\nRCPT TO:<evil@x.example>", "paused\r\nBcc: evil@x.example"))
    ((to, message),) = server.messages
    assert len(to) == 2
    assert message["Bcc"] is None
    assert "\\r\\nBcc: evil@x.example" in message["Subject"]


def test_without_a_good_certificate_no_password_goes_out(context: ssl.SSLContext) -> None:
    """It is verified before anything is said."""
    with (
        MailServer(context, user=("gate", "p")).running() as server,
        pytest.raises(UndeliveredError, match="certificate of the mail server is not good"),
    ):
        mail(server, mail_username="gate", mail_password="p").send(notice())
    assert server.messages == []


def test_a_server_without_starttls_gets_nothing() -> None:
    """Who strips the offer of STARTTLS away gets no message."""
    with MailServer().running() as server, pytest.raises(UndeliveredError, match="lacks STARTTLS"):
        mail(server).send(notice())
    assert server.messages == []


def test_what_a_mail_server_says_is_not_repeated(tmp_path: Path, context: ssl.SSLContext) -> None:
    """It quotes addresses; the code and the step are enough."""
    with MailServer(context, user=("gate", "p")).running() as server:
        with pytest.raises(UndeliveredError, match=r"^the mail server answered 535 \(signing in\)$"):
            mail(server, ca_bundle=tmp_path / "ca.pem", mail_username="gate", mail_password="wrong").send(notice())
        server.refuse = "554 no anna@hospital.example here"
        with pytest.raises(UndeliveredError, match=r"^the mail server answered 554 \(the message\)$"):
            mail(server, ca_bundle=tmp_path / "ca.pem", mail_username="gate", mail_password="p").send(notice())


# --- On the way


class Unsteady:
    """A way to people that fails so many times."""

    name = "unsteady"

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.got: list[str] = []

    def send(self, notice: Notice) -> None:
        """Fail, or take it."""
        if self.failures:
            self.failures -= 1
            raise UndeliveredError("not now")
        self.got.append(notice.id)


def test_what_does_not_get_there_is_tried_again_in_order() -> None:
    """Nobody waits for it meanwhile."""
    way = Unsteady(3)
    outbox = Outbox(way, first_wait=0.01)
    outbox.start()
    for number in range(3):
        outbox.put(Notice(str(number), NOW, ()))
    wait_for(lambda: not outbox.waiting())
    outbox.close(5)
    assert way.got == ["0", "1", "2"]


def test_after_a_day_it_is_old_news() -> None:
    """It is given up, and what comes after it is sent."""
    now = [0.0]
    way = Unsteady(0)
    outbox = Outbox(way, [Notice("old", NOW, ())], clock=lambda: now[0])
    now[0] = 86401.0
    outbox.put(Notice("new", NOW, ()))
    outbox.start()
    wait_for(lambda: not outbox.waiting())
    outbox.close(5)
    assert way.got == ["new"]


# --- Over a restart


def test_what_was_told_outlives_a_restart(tmp_path: Path) -> None:
    """All of it comes back as it was."""
    sign = Sign(Level.THERE, 3.0, Severity.WARNING, "title", "text", "advice")
    told = Told({"paused": Seen(NOW, sign, told_at=NOW, gone_at=NOW, calm=120.0)}, NOW)
    memory = Memory(tmp_path)
    assert memory.claim()
    memory.save(told, {"mail": [notice()]})
    assert Memory(tmp_path).load() == (told, {"mail": [notice()]})
    assert processes(tmp_path) == []


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 2}', '{"version": 1, "seen": {"a": 1}, "last_at": null}'])
def test_a_spoilt_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    """What lasts is told once more."""
    (tmp_path / "processes").mkdir()
    (tmp_path / "processes" / "notices").write_text(text)
    assert Memory(tmp_path).load() == (Told(), {})


def test_of_several_consoles_one_tells(tmp_path: Path) -> None:
    """Until it ends."""
    first, second = Memory(tmp_path), Memory(tmp_path)
    assert first.claim()
    assert not second.claim()
    first.release()
    assert second.claim()


# --- All of it


BEGAN = time.monotonic()


def clock() -> datetime:
    """One that runs a hundred times as fast."""
    return NOW + timedelta(seconds=100 * (time.monotonic() - BEGAN))


@contextlib.contextmanager
def telling(config: Config) -> Iterator[None]:
    """The worker on a spool, with that clock."""
    stopped = threading.Event()
    history = History(LedgerReader(config.spool.directory / "ledger.db"))
    threads = [
        threading.Thread(target=history.run, args=(stopped,)),
        threading.Thread(target=Notices(config, history, clock=clock, every=0.05).run, args=(stopped,)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopped.set()
        for thread in threads:
            thread.join(10)


class Uploader:
    """What an uploader says of itself."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def facts(self) -> dict[str, Any]:
        """In that mode for an hour."""
        since = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        return {"destination": {"mode": self.mode, "reason": "connection refused", "since": since}}


def said(server: HookServer) -> Callable[[str, str], bool]:
    return lambda key, change: any(
        (trouble["key"], trouble["change"]) == (key, change)
        for _, document in server.posted
        for trouble in document["troubles"]
    )


def test_people_are_told_of_trouble_and_of_its_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """On a real spool: a paused destination, a missing receiver; a restart repeats nothing; then all is well."""
    logs.setup(LoggingConfig(), "console")
    spool = Spool(tmp_path / "spool")
    spool.prepare()
    Ledger(spool.ledger).close()
    uploader = Uploader("paused")
    presence = Presence(spool.directory, "uploader", uploader.facts)
    presence.start()
    with HookServer().running() as server:
        ini = tmp_path / "pipeline.ini"
        ini.write_text(
            f"[spool]\nmin_free = 1 MB\n[notify]\nlow_disk = 1 MB\nrepeat_seconds = 604800\n"
            f"webhook_url = http://127.0.0.1:{server.port}/{SECRET}\n"
        )
        config = settings.load(ini, {})
        has_said = said(server)
        with telling(config):
            wait_for(lambda: has_said("paused", "new") and has_said("no-receiver", "new"))
        count = len(server.posted)
        with telling(config):
            time.sleep(0.5)  # fifty seconds of the worker's clock: nothing new is to be said
            assert len(server.posted) == count
            receiver = Presence(spool.directory, "receiver")
            receiver.start()
            uploader.mode = "open"
            wait_for(lambda: has_said("paused", "over") and has_said("no-receiver", "over"))
        for process in (presence, receiver):
            process.close()
    assert SECRET not in capfd.readouterr().err


def test_a_worker_without_anybody_to_tell_ends(tmp_path: Path) -> None:
    """At once, and leaves nothing in the spool."""
    history = History(LedgerReader(tmp_path / "ledger.db"))
    Notices(Config(tmp_path / "pipeline.ini"), history).run(threading.Event())


# --- The command


def notify_test(ini: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "console", "--config", str(ini), "notify-test", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_notify_test_says_what_came_of_each_way(tmp_path: Path) -> None:
    """One is taken, the other is not: exit status 1."""
    with HookServer().running() as server:
        ini = tmp_path / "pipeline.ini"
        ini.write_text(
            f"[notify]\nwebhook_url = http://127.0.0.1:{server.port}/{SECRET}\nmail_server = 127.0.0.1\n"
            f"mail_port = {free_port()}\nmail_from = a@b.example\nmail_to = c@d.example\n"
        )
        ran = notify_test(ini)
        assert ran.returncode == 1
        assert ran.stdout.splitlines() == [
            "webhook: taken",
            "mail: not taken: no connection to the mail server (ConnectionRefusedError)",
        ]
        assert SECRET not in ran.stdout + ran.stderr
        assert [document["kind"] for _, document in server.posted] == ["test"]
        as_json = json.loads(notify_test(ini, "--json").stdout)
    assert [(way["channel"], way["taken"]) for way in as_json["channels"]] == [("webhook", True), ("mail", False)]


def test_notify_test_without_a_way_is_not_well(tmp_path: Path) -> None:
    """Nobody would be told."""
    (tmp_path / "pipeline.ini").write_text("")
    ran = notify_test(tmp_path / "pipeline.ini")
    assert ran.returncode == 1
    assert "expected webhook_url or mail_server in [notify], found neither" in ran.stdout
