"""Settings: what pipeline.ini and the environment may say, and how they are refused."""

import dataclasses
import ipaddress
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import config
from common.config import SETTINGS, Auth, Config, Level, LogFormat, Setting, Verify
from common.errors import ConfigError
from common.settings_console import MailSecurity, WebhookFormat
from common.settings_texts import MASK
from common.settings_types import Seconds, Size, UnfitError

PIPELINE_INI = Path(__file__).parents[3] / "pipeline.ini"

# The defaults that DESIGN section 7 promises, as values, so that a change of kind or unit shows too.
OAUTH2 = """[destination]
auth = oauth2
oauth2_token_url = https://login.example/token
oauth2_client_id = c
oauth2_client_secret = s
"""

DEFAULTS: dict[str, dict[str, object]] = {
    "spool": {"directory": Path("spool"), "min_free": 1_000_000_000, "settle_seconds": 2.0, "rescan_seconds": 30.0},
    "receiver": {
        "ae_title": "STOWGATE",
        "host": "0.0.0.0",  # noqa: S104 -- the promised default
        "port": 11112,
        "require_called_ae_title": False,
        "allowed_calling_ae_titles": (),
        "allowed_peers": (),
        "max_associations": 64,
        "max_pdu": 128_000,
        "acse_timeout_seconds": 30.0,
        "network_timeout_seconds": 60.0,
        "shutdown_seconds": 20.0,
        "tls_certificate": None,
        "tls_key": None,
        "tls_client_ca": None,
    },
    "destination": {
        "url": "http://127.0.0.1:8080/dicom-web",
        "connect_timeout_seconds": 30.0,
        "read_timeout_seconds": 300.0,
        "auth": Auth.NONE,
        "username": "",
        "password": "",
        "token": "",
        "token_file": None,
        "oauth2_token_url": "",
        "oauth2_client_id": "",
        "oauth2_client_secret": "",
        "oauth2_scope": "",
        "headers": (),
        "ca_bundle": None,
        "client_certificate": None,
        "client_key": None,
        "proxy": "",
        "verify": Verify.NO,
    },
    "uploader": {
        "threads": 4,
        "batch_instances": 50,
        "batch_size": 64_000_000,
        "max_attempts": 8,
        "backoff_initial_seconds": 1.0,
        "backoff_max_seconds": 300.0,
        "shutdown_seconds": 20.0,
    },
    "console": {
        "host": "127.0.0.1",
        "port": 11180,
        "host_names": (),
        "users_file": None,
        "session_minutes": 30,
        "tls_certificate": None,
        "tls_key": None,
        "metrics_token": "",
    },
    "notify": {
        "webhook_url": "",
        "webhook_format": WebhookFormat.JSON,
        "mail_server": "",
        "mail_port": 587,
        "mail_security": MailSecurity.STARTTLS,
        "mail_username": "",
        "mail_password": "",
        "mail_from": "",
        "mail_to": (),
        "ca_bundle": None,
        "paused_seconds": 300.0,
        "low_disk": 5_000_000_000,
        "quarantine_per_hour": 10,
        "repeat_seconds": 14400.0,
    },
    "retention": {
        "settled_days": 400,
        "settled_rows": 5_000_000,
        "event_days": 400,
        "quarantine_days": 0,
        "quarantine_size": 0,
    },
    "logging": {"level": Level.INFO, "format": LogFormat.TEXT, "patient_identifiers": False},
}


def load(text: str | bytes, environ: Mapping[str, str] | None = None, files_of: Collection[str] = ()) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pipeline.ini")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config.load(path, environ or {}, files_of=files_of)


def problems(
    text: str | bytes, environ: Mapping[str, str] | None = None, files_of: Collection[str] = ()
) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(text, environ, files_of)
    return caught.value.problems


def value(section: str, key: str, text: str) -> Any:
    return getattr(getattr(load(f"[{section}]\n{key} = {text}\n"), section), key)


def problem(section: str, key: str, text: str) -> str:
    (only,) = problems(f"[{section}]\n{key} = {text}\n")
    return only


# --- Defaults, pipeline.ini, describe


def test_the_defaults_are_those_of_the_design() -> None:
    """An empty file gives every default that the design promises, and no key beside them."""
    found = dataclasses.asdict(load(""))
    found.pop("path")
    found["spool"]["directory"] = Path(found["spool"]["directory"].name)
    assert found == DEFAULTS


def test_a_section_made_without_a_file_has_the_defaults_too() -> None:
    """A Config made in code, as tests do, differs from a loaded one only in the folder of its paths."""
    loaded, made = load(""), Config(Path("pipeline.ini"))
    assert (made.receiver, made.destination) == (loaded.receiver, loaded.destination)
    assert (made.uploader, made.logging) == (loaded.uploader, loaded.logging)
    assert made.spool.directory == Path("spool")


def test_pipeline_ini_is_the_defaults() -> None:
    """The file at the top of the repository parses to exactly the defaults."""
    loaded = config.load(PIPELINE_INI, {})
    assert loaded.spool.directory == PIPELINE_INI.parent / "spool"
    assert dataclasses.replace(loaded, spool=config.SpoolConfig()) == Config(PIPELINE_INI)


def test_pipeline_ini_shows_and_explains_every_key() -> None:
    """Each key stands in pipeline.ini with its default, under its section and a comment that says what it takes."""
    shown: dict[tuple[str, str], tuple[str, str]] = {}
    section, comment = "", ""
    for line in PIPELINE_INI.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif line.startswith("["):
            section, comment = line[1:-1], ""
        elif "=" in line:
            key, _, default = line.partition("=")
            shown[section, key.strip()] = default.strip(), comment
            comment = ""
    assert shown == {name: (setting.default, setting.comment) for name, setting in SETTINGS.items()}


@pytest.mark.parametrize(
    "setting", [setting for setting in SETTINGS.values() if setting.kind.secret], ids=lambda setting: setting.key
)
def test_pipeline_ini_sends_secrets_to_the_environment(setting: Setting) -> None:
    """The comment of each secret names the environment variable where it belongs."""
    assert setting.comment.endswith(f"belongs in the environment: {setting.variable}")


def test_the_secrets_are_these() -> None:
    """Password, token and client secret are secrets, and nothing else is masked whole."""
    assert {setting.key for setting in SETTINGS.values() if setting.kind.secret} == {
        "password",
        "token",
        "oauth2_client_secret",
        "mail_password",
        "metrics_token",
    }


def test_describe_reads_back_as_the_same_configuration() -> None:
    """Without secrets, the printed configuration is an ini file that means the same."""
    text = """
[spool]
directory = /srv/stowgate/spool
min_free = 1.5 GiB
[receiver]
allowed_calling_ae_titles = CT 1, MR2
allowed_peers = 192.0.2.7 10.1.0.0/16, 2001:db8::/32
max_pdu = 65537
acse_timeout_seconds = 0.25
tls_certificate = /etc/stowgate/cert.pem
tls_key = /etc/stowgate/key.pem
[destination]
url = https://archive.example/dicom-web/
[logging]
level = warning
format = json
patient_identifiers = on
"""
    first = load(text)
    second = load(first.describe())
    assert dataclasses.replace(second, path=first.path) == first
    assert second.describe() == first.describe()


def test_describe_names_every_key() -> None:
    """The printed configuration has a line for each setting, set or not."""
    lines = load("").describe().splitlines()
    assert [line.split(" = ")[0].removesuffix(" =") for line in lines if "=" in line] == [key for _, key in SETTINGS]
    assert [line for line in lines if line.startswith("[")] == [f"[{section}]" for section in DEFAULTS]


def test_what_is_secret_in_part_is_masked_in_part() -> None:
    """Names of headers and the place of a token URL are shown, values and query are not."""
    loaded = load(
        OAUTH2.replace("/token", "/token?code=hunter2")
        + "headers = X-Api-Key: hunter2\n  X-Tenant: hunter2\n[logging]\nlevel = ERROR\n"
    )
    assert loaded.destination.oauth2_token_url == "https://login.example/token?code=hunter2"
    assert loaded.destination.headers == (("X-Api-Key", "hunter2"), ("X-Tenant", "hunter2"))
    assert "hunter2" not in loaded.describe() + repr(loaded)
    assert f"\noauth2_token_url = https://login.example/token?{MASK}\n" in loaded.describe()
    assert f"\nheaders = X-Api-Key: {MASK}; X-Tenant: {MASK}\n" in loaded.describe()


def test_secrets_are_masked_wherever_a_configuration_is_printed() -> None:
    """Neither describe() nor a repr shows a password, a token or the credentials of a proxy."""
    text = "[destination]\nauth = basic\nusername = gate\npassword = hunter2\nproxy = http://u:hunter2@proxy.example:3128\n"
    loaded = load(text)
    assert loaded.destination.password == "hunter2"
    assert loaded.destination.proxy == "http://u:hunter2@proxy.example:3128"
    assert "hunter2" not in loaded.describe()
    assert "hunter2" not in repr(loaded)
    assert f"\npassword = {MASK}\n" in loaded.describe()
    assert f"\nproxy = http://{MASK}@proxy.example:3128\n" in loaded.describe()
    assert "\ntoken =\n" in loaded.describe()


# --- Values


@pytest.mark.parametrize(
    ("section", "key", "text", "expected"),
    [
        pytest.param("spool", "min_free", "0", 0, id="zero"),
        pytest.param("spool", "min_free", "1234", 1234, id="plain bytes"),
        pytest.param("spool", "min_free", "12 B", 12, id="bytes with unit"),
        pytest.param("spool", "min_free", "1 KB", 1000, id="kilobyte"),
        pytest.param("spool", "min_free", "1KiB", 1024, id="kibibyte without space"),
        pytest.param("spool", "min_free", "1.5 gb", 1_500_000_000, id="decimal in lower case"),
        pytest.param("spool", "min_free", "2 TiB", 2 * 1024**4, id="tebibyte"),
        pytest.param("spool", "min_free", "1.3 KiB", 1331, id="fraction of a byte is dropped"),
        pytest.param("spool", "settle_seconds", "0.5", 0.5, id="fraction of a second"),
        pytest.param("receiver", "require_called_ae_title", "yes", True, id="yes"),
        pytest.param("receiver", "require_called_ae_title", "TRUE", True, id="true"),
        pytest.param("receiver", "require_called_ae_title", "on", True, id="on"),
        pytest.param("receiver", "require_called_ae_title", "1", True, id="1"),
        pytest.param("receiver", "require_called_ae_title", "No", False, id="no"),
        pytest.param("receiver", "require_called_ae_title", "false", False, id="false"),
        pytest.param("receiver", "require_called_ae_title", "off", False, id="off"),
        pytest.param("receiver", "require_called_ae_title", "0", False, id="0"),
        pytest.param("receiver", "ae_title", "SIXTEEN LETTERS!", "SIXTEEN LETTERS!", id="AE title of 16"),
        pytest.param(
            "receiver", "allowed_calling_ae_titles", "CT 1,MR , ,US", ("CT 1", "MR", "US"), id="AE titles with spaces"
        ),
        pytest.param(
            "receiver", "allowed_calling_ae_titles", "CT,\n  # the new one\n  MR", ("CT", "MR"), id="list over lines"
        ),
        pytest.param(
            "receiver",
            "allowed_peers",
            "192.0.2.7, 10.0.0.0/8 2001:db8::1",
            tuple(ipaddress.ip_network(net) for net in ("192.0.2.7/32", "10.0.0.0/8", "2001:db8::1/128")),
            id="peers",
        ),
        pytest.param(
            "receiver",
            "allowed_peers",
            "::ffff:10.1.0.0/112 ::ffff:10.2.0.7 ::/0",
            tuple(ipaddress.ip_network(net) for net in ("10.1.0.0/16", "10.2.0.7/32", "::/0")),
            id="IPv4 peers written as IPv6",
        ),
        pytest.param("receiver", "host", "::", "::", id="IPv6 host"),
        pytest.param("receiver", "host", "gate.example", "gate.example", id="host name"),
        pytest.param("destination", "url", "https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443", id="URL"),
        pytest.param("destination", "proxy", "http://u:p@p.example:3128/", "http://u:p@p.example:3128", id="proxy"),
        pytest.param(
            "destination",
            "headers",
            "X-Key: a:b=; ; X-Tenant:7 ;",
            (("X-Key", "a:b="), ("X-Tenant", "7")),
            id="headers",
        ),
        pytest.param(
            "destination",
            "headers",
            "X-Key: two words\n  # the new one\n  X_T!#$%&'*+.^`|~: 7;A: b",
            (("X-Key", "two words"), ("X_T!#$%&'*+.^`|~", "7"), ("A", "b")),
            id="headers over lines",
        ),
        pytest.param("logging", "level", "debug", Level.DEBUG, id="level in lower case"),
        pytest.param("logging", "format", "JSON", LogFormat.JSON, id="format in capitals"),
    ],
)
def test_values_are_typed(section: str, key: str, text: str, expected: object) -> None:
    """Each kind of text becomes the value that it stands for, of one type."""
    found = value(section, key, text)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("section", "key", "text", "why"),
    [
        pytest.param(
            "receiver", "port", "abc", "expected a whole number from 1 to 65535, found 'abc'", id="port not a number"
        ),
        pytest.param("receiver", "port", "0", "from 1 to 65535, found '0'", id="port 0"),
        pytest.param("receiver", "port", "65536", "found '65536'", id="port too high"),
        pytest.param("receiver", "port", "", "found nothing", id="port empty"),
        pytest.param("receiver", "port", "١٢", "found '١٢'", id="digits of another script"),
        pytest.param("receiver", "port", "9" * 5000, f"found '{'9' * 60}…'", id="endless number"),
        pytest.param("receiver", "port", "11112 # DICOM", "found '11112 # DICOM'", id="inline comment"),
        pytest.param("uploader", "threads", "65", "from 1 to 64, found '65'", id="threads"),
        pytest.param("uploader", "batch_instances", "10001", "from 1 to 10000", id="batch_instances"),
        pytest.param("receiver", "max_pdu", "4095", "from 4 KiB to 16 MiB, found '4095'", id="max_pdu too small"),
        pytest.param("receiver", "max_pdu", "17 MB", "found '17 MB'", id="max_pdu too large"),
        pytest.param("spool", "min_free", "-1", "found '-1'", id="negative size"),
        pytest.param("spool", "min_free", "1.5", "found '1.5'", id="fraction of a byte"),
        pytest.param("spool", "min_free", "1 XB", "found '1 XB'", id="unknown unit"),
        pytest.param("spool", "settle_seconds", "0", "from 0.1 to 3600, found '0'", id="settle at once"),
        pytest.param("spool", "settle_seconds", "nan", "found 'nan'", id="nan"),
        pytest.param("spool", "settle_seconds", "1e3", "found '1e3'", id="exponent"),
        pytest.param("spool", "directory", "", "expected a path to a directory, found nothing", id="no directory"),
        pytest.param("receiver", "require_called_ae_title", "maybe", "expected yes or no, found 'maybe'", id="maybe"),
        pytest.param("receiver", "ae_title", "SEVENTEEN LETTERS", "1 to 16 ASCII characters", id="AE title of 17"),
        pytest.param("receiver", "ae_title", "", "found nothing", id="no AE title"),
        pytest.param("receiver", "ae_title", "A\\B", r"found 'A\\B'", id="AE title with backslash"),
        pytest.param("receiver", "ae_title", "RÖNTGEN", "found 'RÖNTGEN'", id="AE title not ASCII"),
        pytest.param("receiver", "ae_title", "A\n  B", r"found 'A\nB'", id="AE title over lines"),
        pytest.param(
            "receiver", "allowed_calling_ae_titles", "CT, SEVENTEEN LETTERS", "found 'SEVENTEEN LETTERS'", id="a list"
        ),
        pytest.param("receiver", "allowed_peers", "10.1.2.3/8", "found '10.1.2.3/8'", id="host bits"),
        pytest.param("receiver", "allowed_peers", "10.0.0.1 localhost", "found 'localhost'", id="peer by name"),
        pytest.param("receiver", "allowed_peers", "010.1.2.3", "found '010.1.2.3'", id="peer in octal"),
        pytest.param("receiver", "allowed_peers", "fe80::1%eth0", "found 'fe80::1%eth0'", id="peer with a scope"),
        pytest.param("receiver", "host", "10.0.0.256", "an IP address or a host name", id="no IP address"),
        pytest.param("receiver", "host", "[::]", "found '[::]'", id="host in brackets"),
        pytest.param(
            "destination", "auth", "digest", "basic, bearer, oauth2, google or aws, found 'digest'", id="auth"
        ),
        pytest.param("destination", "url", "archive.example/x", "absolute http or https URL", id="URL without scheme"),
        pytest.param("destination", "url", "ftp://archive.example", "found 'ftp://archive.example'", id="ftp URL"),
        pytest.param("destination", "url", "http:///dicom-web", "found 'http:///dicom-web'", id="URL without host"),
        pytest.param("destination", "url", "http://a b/", "found 'http://a b/'", id="URL with space"),
        pytest.param("destination", "url", "http://a:0/", "found 'http://a:0/'", id="URL with port 0"),
        pytest.param("destination", "url", "", "found nothing", id="no URL"),
        pytest.param("destination", "proxy", "http://p.example/x", "host and no path", id="proxy with path"),
        pytest.param("destination", "proxy", "socks5://p.example", "http or https URL", id="socks proxy"),
        pytest.param("destination", "headers", "X-Api-Key", "such as X-Api-Key: abc;", id="header without value"),
        pytest.param("destination", "headers", "X-Api-Key:", "something else in place 1", id="header with nothing"),
        pytest.param("destination", "headers", "X: a; : b", "something else in place 2", id="header without name"),
        pytest.param("destination", "headers", "X y: a", "something else in place 1", id="header name with space"),
        pytest.param("destination", "headers", "X: a\x01b", "something else in place 1", id="header with control"),
        pytest.param("destination", "headers", "X: a\tb", "something else in place 1", id="header with tab"),
        pytest.param("destination", "headers", "X: \u00e4", "something else in place 1", id="header not ASCII"),
        pytest.param("destination", "headers", "X: a; x: b", "same name in place 2 as before", id="header twice"),
        *(
            pytest.param(
                "destination", "headers", f"{name}: a", f"found {name.lower()}, which is not", id=f"our {name}"
            )
            for name in (
                "Content-Type",
                "content-length",
                "Host",
                "User-Agent",
                "ACCEPT",
                "Transfer-Encoding",
                "Connection",
            )
        ),
        pytest.param("logging", "level", "CRITICAL", "DEBUG, INFO, WARNING or ERROR", id="level"),
        pytest.param("logging", "format", "xml", "expected text or json, found 'xml'", id="format"),
    ],
)
def test_unfit_values_are_refused(section: str, key: str, text: str, why: str) -> None:
    """A value out of range or of another kind is one problem: place, what was expected, what was found."""
    found = problem(section, key, text)
    assert found.startswith(f"[{section}] {key}: expected ")
    assert why in found


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: f"{setting.section}.{setting.key}")
def test_every_setting_holds_its_value_to_something(setting: Setting) -> None:
    """A NUL is refused by every setting, so none takes whatever it is given."""
    found = problems("", {setting.variable: "a\x00b"})
    assert any(
        line.startswith(f"{setting.variable} (for [{setting.section}] {setting.key}): expected") for line in found
    )


@given(st.integers(min_value=0, max_value=1000 * 1000**4))
def test_a_size_round_trips(size: int) -> None:
    """A size that is shown reads back as the same number of bytes."""
    kind = Size(0, 1000 * 1000**4)
    assert kind.parse(kind.show(size), Path()) == size


@given(st.integers(min_value=0, max_value=10**9), st.sampled_from(["KB", "mb", "GiB", " kib", "\tB", ""]))
def test_a_size_grows_with_its_number(number: int, unit: str) -> None:
    """One more of a unit is always the same number of bytes more."""
    kind = Size(0, 10**20)
    sizes = [kind.parse(f"{number + more}{unit}", Path()) for more in range(3)]
    assert sizes[1] - sizes[0] == sizes[2] - sizes[1] == kind.parse(f"1{unit}", Path())


@given(st.floats(min_value=0, max_value=86400).map(lambda seconds: round(seconds, 6)))
def test_seconds_round_trip(seconds: float) -> None:
    """Seconds that are shown read back as the same float."""
    kind = Seconds(0, 86400)
    assert kind.parse(kind.show(seconds), Path()) == seconds


def test_paths_are_relative_to_the_ini_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative paths of file and environment start at the ini file's folder, wherever the process runs."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "my.ini").write_text("[spool]\ndirectory = ../spool\n[destination]\nca_bundle = /ca.pem\n")
    monkeypatch.chdir(tmp_path)
    loaded = config.load(Path("etc/my.ini"), {"STOWGATE_DESTINATION_CLIENT_CERTIFICATE": "client.pem"})
    assert loaded.path == tmp_path / "etc" / "my.ini"
    assert loaded.spool.directory == tmp_path / "etc" / "../spool"
    assert loaded.destination.ca_bundle == Path("/ca.pem")
    assert loaded.destination.client_certificate == tmp_path / "etc" / "client.pem"


# --- The file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("\ufeff[receiver]\nport = 5\n", 5, id="byte order mark"),
        pytest.param("[receiver]\r\nport = 5\r\n", 5, id="Windows line ends"),
        pytest.param("[receiver]\nPORT=5", 5, id="key in capitals"),
        pytest.param("# first\n[receiver]\n; second\n  # third\nport = 5\n", 5, id="comments"),
    ],
)
def test_ini_habits_are_tolerated(text: str, expected: int) -> None:
    """Forms of an ini file that mean no harm are read."""
    assert load(text).receiver.port == expected


def test_a_password_is_taken_as_it_stands() -> None:
    """Signs that other ini files give a meaning are part of a password."""
    password = "50%(off)s ${HOME} #1 ; a=b:c ä"
    text = f"[destination]\nauth = basic\nusername = gate\npassword = {password}\n"
    assert load(text).destination.password == password


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("port = 5\n", ["pipeline.ini, line 1: expected a [section] first"], id="no section"),
        pytest.param(
            "[receiver]\nport\nhost localhost\n",
            ["pipeline.ini, line 2: expected key = value", "pipeline.ini, line 3: expected key = value"],
            id="no equals sign",
        ),
        pytest.param("[receiver]\nport: 5\n", ["pipeline.ini, line 2: expected key = value"], id="colon"),
        pytest.param("[spool] min_free = 0\n", ["pipeline.ini, line 1: expected a [section] first"], id="one line"),
        pytest.param(
            "[receiver]\nport = 5\nhost = ::\nport = 6\nport = 7\n",
            ["pipeline.ini, line 4: [receiver] port: set twice", "pipeline.ini, line 5: [receiver] port: set twice"],
            id="duplicate keys",
        ),
        pytest.param(
            "[receiver]\nport = 5\n[spool]\n[receiver]\nprot = 5\n",
            [
                "pipeline.ini, line 4: [receiver]: a second section of this name",
                "[receiver] prot: unknown key; did you mean port?",
            ],
            id="duplicate section",
        ),
        pytest.param("[reciever]\n", ["[reciever]: unknown section; did you mean [receiver]?"], id="misspelt section"),
        pytest.param(
            "[Receiver]\n", ["[Receiver]: unknown section; did you mean [receiver]?"], id="section in capitals"
        ),
        pytest.param("[DEFAULT]\nport = 5\n", ["[DEFAULT]: unknown section"], id="configparser's DEFAULT"),
        pytest.param(
            "[receiver]\nae_titel = X\n",
            ["[receiver] ae_titel: unknown key; did you mean ae_title?"],
            id="misspelt key",
        ),
        pytest.param(
            "[receiver]\nthreads = 2\n",
            ["[receiver] threads: unknown key; it belongs in [uploader]"],
            id="key of another section",
        ),
        pytest.param("[receiver]\nxyzzy = 2\n", ["[receiver] xyzzy: unknown key"], id="key of none"),
        pytest.param(
            b"[receiver]\nhost = \xff\n", ["pipeline.ini, line 2: expected UTF-8, found byte 0xff"], id="Latin-1"
        ),
    ],
)
def test_broken_files_are_refused(text: str | bytes, expected: list[str]) -> None:
    """Every fault of syntax or name is a problem of its own, with a line number or a suggestion."""
    assert list(problems(text)) == expected


def test_every_problem_is_reported_at_once() -> None:
    """Faults of syntax, names, values, the environment and between settings come in one error."""
    text = "[receiver]\nport = abc\nport = 5\njunk\nprot = 1\n[uploader]\nthreads = 0\n[spol]\n"
    environ = {"STOWGATE_LOGGING_LEVEL": "loud", "STOWGATE_DESTINATION_TOKEN": "abc", "STOWGATE_SPOOL_MINFREE": "1"}
    found = problems(text, environ)
    starts = [
        "pipeline.ini, line 3: [receiver] port",
        "pipeline.ini, line 4: ",
        "[receiver] prot: ",
        "[spol]: ",
        "STOWGATE_SPOOL_MINFREE: ",
        "[receiver] port: ",
        "[uploader] threads: ",
        "STOWGATE_LOGGING_LEVEL (for [logging] level): ",
        "STOWGATE_DESTINATION_TOKEN (for [destination] token): ",
    ]
    assert len(found) == len(starts)
    assert [start for start in starts if not any(line.startswith(start) for line in found)] == []


def test_a_file_of_rubbish_ends_in_a_bounded_list() -> None:
    """A large file that is no ini file costs a short list of problems, not one for each line."""
    found = problems("rubbish\n" * 100_000)
    assert len(found) < 60
    assert found[-1] == "pipeline.ini: so many problems that reading stopped here"


@given(st.text(alphabet=st.sampled_from("[]=#;\n\t abcport0%\r\ufeffé"), max_size=60))
def test_any_text_is_a_configuration_or_a_list_of_problems(text: str) -> None:
    """No text makes loading fail otherwise, and each problem takes one printable line."""
    found: tuple[str, ...] = ()
    try:
        load("[receiver]\n" + text)
    except ConfigError as error:
        found = error.problems or ("an error without a problem\n",)
    assert [line for line in found if not line.isprintable()] == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda _: None, "expected a readable file, found none", id="missing"),
        pytest.param(lambda path: path.mkdir(), "expected a readable file, found: Is a directory", id="directory"),
        pytest.param(
            lambda path: path.write_bytes(b"#" * 1_000_001),
            "expected a file of at most 1000000 bytes, found a longer one",
            id="endless",
        ),
    ],
)
def test_an_unreadable_file_is_a_problem(tmp_path: Path, make: Any, expected: str) -> None:
    """A file that cannot be read is reported with its path, beside the problems of the environment."""
    path = tmp_path / "pipeline.ini"
    make(path)
    with pytest.raises(ConfigError) as caught:
        config.load(path, {"STOWGATE_RECEIVER_PORT": "abc"})
    assert caught.value.problems == (
        f"{path}: {expected}",
        "STOWGATE_RECEIVER_PORT (for [receiver] port): expected a whole number from 1 to 65535, found 'abc'",
    )


# --- The environment


def test_the_environment_wins() -> None:
    """A variable replaces the file's value, even an unfit one."""
    loaded = load("[receiver]\nport = abc\nhost = ::1\n", {"STOWGATE_RECEIVER_PORT": " 104 "})
    assert loaded.receiver.port == 104
    assert loaded.receiver.host == "::1"


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda setting: setting.variable)
def test_every_setting_has_its_variable(setting: Setting) -> None:
    """Each setting can be set by STOWGATE_<SECTION>_<KEY>, shown here by setting its default."""
    default = setting.kind.show(setting.kind.parse(setting.default, Path("/")))
    loaded = load("", {setting.variable: default})
    assert setting.variable == f"STOWGATE_{setting.section.upper()}_{setting.key.upper()}"
    assert getattr(getattr(loaded, setting.section), setting.key) == setting.kind.parse(setting.default, Path("/"))


def test_the_environment_of_the_process_is_the_usual_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without an environment given, the process's own is read."""
    (tmp_path / "pipeline.ini").touch()
    monkeypatch.setenv("STOWGATE_UPLOADER_THREADS", "7")
    assert config.load(tmp_path / "pipeline.ini").uploader.threads == 7


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        pytest.param(
            "STOWGATE_RECEIVER_PROT",
            "STOWGATE_RECEIVER_PROT: unknown key of [receiver]; did you mean STOWGATE_RECEIVER_PORT?",
            id="misspelt",
        ),
        pytest.param(
            "STOWGATE_RECEIVER_port",
            "STOWGATE_RECEIVER_port: unknown key of [receiver]; did you mean STOWGATE_RECEIVER_PORT?",
            id="not in capitals",
        ),
    ],
)
def test_unknown_variables_of_our_sections_are_refused(variable: str, expected: str) -> None:
    """A variable that names one of our sections and no key of it is a problem with a suggestion."""
    assert problems("", {variable: "1"}) == (expected,)


@pytest.mark.parametrize(
    "variable", ["STOWGATE_CONFIG", "STOWGATE_RECEIVER", "STOWGATE_WEB_PORT", "MYSTOWGATE_SPOOL_X"]
)
def test_other_variables_are_not_ours(variable: str) -> None:
    """Variables without one of our sections are left alone."""
    assert load("", {variable: "abc"}).receiver.port == 11112


# --- Settings against each other

MAIL = (
    "[notify]\nmail_server = m\nmail_from = a@b.example\nmail_to = c@d.example\nmail_username = u\nmail_password = p\n"
)

PAIRED = [
    pytest.param(
        "[receiver]\ntls_certificate = c\n",
        "[receiver] tls_key: expected a file, because tls_certificate is set; found nothing",
        id="certificate without key",
    ),
    pytest.param(
        "[receiver]\ntls_key = k\n",
        "[receiver] tls_certificate: expected a file, because tls_key is set; found nothing",
        id="key without certificate",
    ),
    pytest.param(
        "[receiver]\ntls_client_ca = a\n",
        "[receiver] tls_client_ca: expected nothing, because TLS is off without tls_certificate",
        id="client CA without TLS",
    ),
    pytest.param(
        "[destination]\nclient_key = k\n",
        "[destination] client_key: expected nothing, because client_certificate is not set",
        id="client key without certificate",
    ),
    pytest.param(
        "[destination]\nauth = basic\nusername = u\n",
        "[destination] password: expected a value, because auth is basic; found nothing",
        id="basic without password",
    ),
    pytest.param(
        "[destination]\nauth = basic\npassword = p\n",
        "[destination] username: expected a value, because auth is basic; found nothing",
        id="basic without username",
    ),
    pytest.param(
        "[destination]\nauth = bearer\n",
        "[destination] token: expected a value here or in token_file, because auth is bearer; found nothing",
        id="bearer without token",
    ),
    pytest.param(
        "[destination]\nauth = bearer\ntoken = t\ntoken_file = f\n",
        "[destination] token: expected a value here or in token_file, because auth is bearer; found both",
        id="bearer with two tokens",
    ),
    pytest.param(
        "[destination]\ntoken_file = f\n",
        "[destination] token_file: expected nothing, because auth is none, not bearer",
        id="token file without bearer",
    ),
    pytest.param(
        "[destination]\nusername = u\n",
        "[destination] username: expected nothing, because auth is none, not basic",
        id="username without basic",
    ),
    pytest.param(
        "[destination]\nauth = bearer\ntoken = t\npassword = p\n",
        "[destination] password: expected nothing, because auth is bearer, not basic",
        id="password with bearer",
    ),
    pytest.param(
        "[destination]\nauth = basic\nusername = u\npassword = p\ntoken = t\n",
        "[destination] token: expected nothing, because auth is basic, not bearer",
        id="token with basic",
    ),
    pytest.param(
        OAUTH2.replace("oauth2_token_url = https://login.example/token\n", ""),
        "[destination] oauth2_token_url: expected a value, because auth is oauth2; found nothing",
        id="oauth2 without URL",
    ),
    pytest.param(
        OAUTH2.replace("oauth2_client_id = c\n", ""),
        "[destination] oauth2_client_id: expected a value, because auth is oauth2; found nothing",
        id="oauth2 without client",
    ),
    pytest.param(
        OAUTH2.replace("oauth2_client_secret = s\n", ""),
        "[destination] oauth2_client_secret: expected a value, because auth is oauth2; found nothing",
        id="oauth2 without secret",
    ),
    *(
        pytest.param(
            f"[destination]\nauth = {auth}\n{key} = http://x\n",
            f"[destination] {key}: expected nothing, because auth is {auth}, not {owner}",
            id=f"{key} with {auth}",
        )
        for key, owner, auth in (
            ("oauth2_token_url", "oauth2", "none"),
            ("oauth2_client_id", "oauth2", "google"),
            ("oauth2_client_secret", "oauth2", "aws"),
            ("oauth2_scope", "oauth2", "google"),
            ("token", "bearer", "google"),
            ("password", "basic", "aws"),
        )
    ),
    pytest.param(
        "[destination]\nauth = bearer\ntoken = t\nheaders = authorization: x\n",
        "[destination] headers: expected no authorization, because auth is bearer",
        id="two Authorization headers",
    ),
    pytest.param(
        "[destination]\nauth = aws\nheaders = X-Amz-Date: x\n",
        "[destination] headers: expected no X-Amz-Date, because auth is aws",
        id="a header that the signer sets",
    ),
    pytest.param(
        "[uploader]\nbackoff_initial_seconds = 2.5\nbackoff_max_seconds = 2\n",
        "[uploader] backoff_initial_seconds: expected at most backoff_max_seconds, which is 2, found 2.5",
        id="backoff",
    ),
    *(
        pytest.param(MAIL.replace(f"{key} = {text}\n", ""), f"[notify] {key}: {expected}", id=f"mail without {key}")
        for key, text, expected in (
            ("mail_from", "a@b.example", "expected a value, because mail_server is set; found nothing"),
            ("mail_to", "c@d.example", "expected a value, because mail_server is set; found nothing"),
            ("mail_username", "u", "expected a value, because mail_password is set; found nothing"),
            ("mail_password", "p", "expected a value, because mail_username is set; found nothing"),
        )
    ),
    *(
        pytest.param(
            f"[notify]\n{key} = a@b.example\n",
            f"[notify] {key}: expected nothing, because mail_server is not set",
            id=f"{key} without a mail server",
        )
        for key in ("mail_username", "mail_password", "mail_from", "mail_to")
    ),
    pytest.param(
        MAIL + "mail_security = none\n",
        "[notify] mail_password: expected nothing, because mail_security is none: anybody on the way could read it",
        id="a password for all to read",
    ),
    pytest.param(
        "[notify]\nca_bundle = c\n",
        "[notify] ca_bundle: expected nothing, because neither webhook_url nor mail_server is set",
        id="authorities for nobody",
    ),
]


@pytest.mark.parametrize(("text", "expected"), PAIRED)
def test_settings_are_held_to_each_other(text: str, expected: str) -> None:
    """Settings that need or exclude each other are refused when they do not fit: none is ignored."""
    assert problems(text) == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[receiver]\ntls_certificate = c\ntls_key = k\ntls_client_ca = a\n", id="TLS"),
        pytest.param("[destination]\nclient_certificate = c\n", id="client certificate that holds its key"),
        pytest.param("[destination]\nclient_certificate = c\nclient_key = k\n", id="client certificate and key"),
        pytest.param("[destination]\nauth = basic\nusername = u\npassword = p\n", id="basic"),
        pytest.param("[destination]\nauth = bearer\ntoken = t\n", id="bearer"),
        pytest.param("[destination]\nauth = bearer\ntoken_file = t\n", id="bearer from a file"),
        pytest.param(OAUTH2, id="oauth2"),
        pytest.param(OAUTH2 + "oauth2_scope = a b\n", id="oauth2 with scopes"),
        pytest.param("[destination]\nauth = google\n", id="google"),
        pytest.param("[destination]\nauth = aws\nheaders = X-Api-Key: k\n", id="aws"),
        pytest.param("[destination]\nheaders = Authorization: ApiKey k; X-Amz-Date: d\n", id="headers without auth"),
        pytest.param(MAIL, id="mail"),
        pytest.param(MAIL + "ca_bundle = c\n", id="mail with an authority of one's own"),
        pytest.param(
            "[notify]\nmail_server = m\nmail_from = a@b.example\nmail_to = c@d.example\nmail_security = none\n",
            id="mail by a relay",
        ),
        pytest.param("[notify]\nwebhook_url = https://hook.example/x\nca_bundle = c\n", id="web hook"),
        pytest.param("[uploader]\nbackoff_initial_seconds = 2\nbackoff_max_seconds = 2\n", id="constant backoff"),
    ],
)
def test_settings_that_fit_each_other_are_taken(text: str) -> None:
    """The combinations that the refusals leave open load."""
    assert load(text).spool.min_free == 1_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("[destination]\nauth = basic\nusername = u\n", id="password"),
        pytest.param("[destination]\nauth = bearer\n", id="token"),
        pytest.param(OAUTH2.replace("oauth2_client_secret = s\n", ""), id="client secret"),
        pytest.param(MAIL.replace("mail_password = p\n", ""), id="mail password"),
    ],
)
def test_secrets_need_be_there_only_for_who_uses_them(text: str, tmp_path: Path) -> None:
    """They are in the environment of one process: the others start without."""
    path = tmp_path / "pipeline.ini"
    path.write_text(text)
    assert config.load(path, {}, secrets_of=("receiver",)).path == path
    (problem,) = problems(text)
    assert "expected a value" in problem


def test_a_receiver_starts_without_the_secrets_of_the_archive(tmp_path: Path) -> None:
    """As its unit does, which is not given them; the uploader does not."""
    path = tmp_path / "pipeline.ini"
    path.write_text("[destination]\nauth = basic\nusername = u\n")
    argv = ["--config", str(path)]
    assert config.load_or_exit(argv, prog="receiver", files_of=("receiver",)).destination.password == ""
    with pytest.raises(SystemExit):
        config.load_or_exit(argv, prog="uploader", files_of=("destination",))


def test_an_unfit_setting_breeds_no_other_problem() -> None:
    """What is compared with an unfit value is not blamed as well."""
    text = (
        "[destination]\nauth = digest\npassword = p\n[uploader]\nbackoff_initial_seconds = 9\nbackoff_max_seconds = x\n"
    )
    assert [line.split(":")[0] for line in problems(text)] == [
        "[destination] auth",
        "[uploader] backoff_max_seconds",
    ]


# --- Secrets

SECRET = "s3cr3t-Zyx"


@pytest.mark.parametrize(
    ("section", "text"),
    [
        pytest.param("destination", f"password = {SECRET}", id="password without basic"),
        pytest.param("destination", f"password = a\n  {SECRET}", id="password over two lines"),
        pytest.param("destination", f"password {SECRET}", id="no equals sign"),
        pytest.param("destination", f"passwort = {SECRET}", id="misspelt key"),
        pytest.param("destination", f"password = x\npassword = {SECRET}", id="duplicate"),
        pytest.param("destination", f"auth = bearer\ntoken = {SECRET} {SECRET}", id="token with space"),
        pytest.param("destination", "auth = bearer\ntoken =\nc2VjcmV0LVp5eA4711==", id="token broken over lines"),
        pytest.param("destination", f"oauth2_client_secret = {SECRET}", id="client secret"),
        pytest.param(
            "destination", f"oauth2_token_url = http://u:{SECRET}@login.example/", id="credentials in token URL"
        ),
        pytest.param("destination", f"oauth2_token_url = http:/login.example/?code={SECRET}", id="key in no token URL"),
        pytest.param("destination", f"headers = X-Api-Key {SECRET}", id="header without colon"),
        pytest.param("destination", f"headers = X Api Key: {SECRET}", id="header name with spaces"),
        pytest.param("destination", f"headers = {SECRET}\u00e9: x", id="key for a header name"),
        pytest.param("destination", f"headers = X-Api-Key: {SECRET}; x-api-key: {SECRET}", id="header twice"),
        pytest.param("destination", f"headers = Content-Type: {SECRET}", id="header of ours"),
        pytest.param("destination", f"headers = X-Api-Key: {SECRET}\u00e9", id="header not ASCII"),
        pytest.param("destination", f"url = http://u:{SECRET}@archive.example/", id="credentials in the URL"),
        pytest.param("destination", f"url = https:/u:{SECRET}@archive.example/", id="credentials in no URL"),
        pytest.param("destination", f"url = http://u:{SECRET}", id="password as port"),
        pytest.param("destination", f"url = http://archive.example/?key={SECRET}", id="key in the query"),
        pytest.param("destination", f"proxy = u:{SECRET}@proxy.example", id="proxy without scheme"),
        pytest.param("destination", f"proxy = http://u:{SECRET}@proxy.example/x", id="proxy with path"),
        pytest.param("destination", f"proxy = http://u:#{SECRET}@proxy.example", id="proxy password with #"),
        pytest.param(f"password = {SECRET}", "", id="section"),
    ],
)
def test_no_problem_shows_a_secret(section: str, text: str) -> None:
    """However a secret is mistyped, the report of it does not contain it."""
    found = "\n".join(problems(f"[{section}]\n{text}\n")).lower()
    assert SECRET.lower() not in found
    assert "c2vjcmv0" not in found


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20).map("7§q".__add__))
def test_no_secret_from_the_environment_is_shown(secret: str) -> None:
    """Whatever a secret consists of, neither a problem nor the printed configuration contains it."""
    environ = {
        "STOWGATE_DESTINATION_AUTH": "basic",
        "STOWGATE_DESTINATION_USERNAME": "gate",
        "STOWGATE_DESTINATION_PASSWORD": secret,
        "STOWGATE_DESTINATION_TOKEN": secret,
    }
    assert "7§q" not in "\n".join(problems("", environ))
    del environ["STOWGATE_DESTINATION_TOKEN"]
    if secret.isprintable():
        loaded = load("", environ)
        assert loaded.destination.password == secret
        assert "7§q" not in loaded.describe() + repr(loaded)


@given(st.text() | st.from_regex(r"(?:[A-Za-z -]{1,9}: ?[\x09-\x7f]{0,9}[;\r\n]*){1,4}", fullmatch=True))
def test_whatever_headers_are_taken_fit_into_a_request(text: str) -> None:
    """Any text is refused without being quoted, or is headers without line ends, none of ours, each name once."""
    kind = SETTINGS["destination", "headers"].kind
    try:
        headers = kind.parse(text, Path())
    except UnfitError:
        return
    names = [name.lower() for name, _ in headers]
    assert len(set(names)) == len(names)
    assert not {"content-length", "content-type", "host", "transfer-encoding"} & set(names)
    for name, given_value in headers:
        assert name.isascii()
        assert not set(name) & set(' \t\r\n:;()<>@,/[]?={}\\"')
        assert given_value
        assert given_value.isascii()
        assert given_value.isprintable()
        assert given_value == given_value.strip()


def test_a_secret_keeps_its_spaces() -> None:
    """The environment can give a password that begins or ends with a space."""
    environ = {"STOWGATE_DESTINATION_PASSWORD": " p ", "STOWGATE_DESTINATION_USERNAME": "u"}
    assert load("[destination]\nauth = basic\n", environ).destination.password == " p "


# --- Files that settings name


def test_files_are_looked_for_only_where_they_are_used(tmp_path: Path) -> None:
    """The files of a section are checked by the process that reads them, and by no other."""
    path = tmp_path / "pipeline.ini"
    path.write_text(
        "[receiver]\ntls_certificate = cert.pem\ntls_key = key.pem\n[destination]\nca_bundle = ca.pem\nclient_key = k\n"
        "client_certificate = folder\n"
    )
    (tmp_path / "cert.pem").write_text("PEM")
    (tmp_path / "folder").mkdir()
    config.load(path, {})
    with pytest.raises(ConfigError) as receiver:
        config.load(path, {}, files_of=["receiver"])
    assert receiver.value.problems == (
        f"[receiver] tls_key: expected a readable file, found none at {tmp_path}/key.pem",
    )
    with pytest.raises(ConfigError) as destination:
        config.load(path, {}, files_of=["destination"])
    assert destination.value.problems == (
        f"[destination] ca_bundle: expected a readable file, found none at {tmp_path}/ca.pem",
        f"[destination] client_certificate: expected a readable file, found something else at {tmp_path}/folder",
        f"[destination] client_key: expected a readable file, found none at {tmp_path}/k",
    )


def test_a_file_without_permission_is_a_problem() -> None:
    """A file that this process may not read is refused before anything is opened."""
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: that is below a folder which only its owner may enter
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "pipeline.ini"
        path.write_text("[destination]\nca_bundle = ca.pem\n")
        path.chmod(0o644)
        (folder / "ca.pem").touch(mode=0o000)
        config.load(path, {})  # brings in what of Python itself another user may not read
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # root reads every file
        try:
            with pytest.raises(ConfigError, match=r"found one that cannot be read \(Permission denied\)"):
                config.load(path, {}, files_of=["destination"])
        finally:
            os.seteuid(user)


def test_a_fifo_does_not_stop_the_check(tmp_path: Path) -> None:
    """What is no file is refused without being opened, which could wait for ever."""
    path = tmp_path / "pipeline.ini"
    path.write_text("[destination]\nca_bundle = pipe\n")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="found something else at"):
        config.load(path, {}, files_of=["destination"])


def test_files_of_an_unknown_section_is_a_slip_in_the_code() -> None:
    """A section that does not exist is no problem of the operator's."""
    with pytest.raises(ValueError, match="reciever"):
        load("", files_of=["reciever"])


# --- Entry points


def test_an_entry_point_gets_its_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--config` names the file; without it, pipeline.ini of the current directory is read."""
    (tmp_path / "pipeline.ini").write_text("[receiver]\nport = 1\n")
    (tmp_path / "other.ini").write_text("[receiver]\nport = 2\n")
    monkeypatch.chdir(tmp_path)
    assert config.load_or_exit([], prog="python -m receiver").receiver.port == 1
    assert config.load_or_exit(["--config", "other.ini"], prog="python -m receiver").receiver.port == 2


def test_a_broken_configuration_ends_an_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every problem is printed to standard error under a headline, and the exit status is 2."""
    monkeypatch.chdir(tmp_path)
    Path("pipeline.ini").write_text("[receiver]\nport = x\ntls_key = key.pem\ntls_certificate = key.pem\n")
    with pytest.raises(SystemExit) as exited:
        config.load_or_exit([], prog="python -m receiver", files_of=["receiver"])
    assert exited.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "python -m receiver: the configuration pipeline.ini is broken, 3 problems:",
        "  [receiver] port: expected a whole number from 1 to 65535, found 'x'",
        f"  [receiver] tls_certificate: expected a readable file, found none at {tmp_path}/key.pem",
        f"  [receiver] tls_key: expected a readable file, found none at {tmp_path}/key.pem",
    ]


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--conf", "x.ini"], 2, id="abbreviation"),
        pytest.param(["x.ini"], 2, id="argument without option"),
    ],
)
def test_the_command_line_is_held_to_its_two_options(argv: list[str], status: int, capsys: Any) -> None:
    """`--help` prints the usage and ends with 0; what is not known ends with 2."""
    with pytest.raises(SystemExit) as exited:
        config.load_or_exit(argv, prog="python -m receiver")
    assert exited.value.code == status
    assert "usage: python -m receiver" in "".join(capsys.readouterr())
