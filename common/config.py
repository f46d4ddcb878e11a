"""pipeline.ini and the environment, made into one frozen, typed `Config`. It does not know who uses it.

`load` either returns a configuration that is whole, or raises ConfigError with every problem found; nothing
is a warning. A setting is never ignored: one that has no effect beside the others is refused.

What each setting is, its default and its range is declared in `common.settings`, and nowhere else.
"""

import argparse
import importlib.util
import os
import stat
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import ConfigError
from common.settings import (
    SECTIONS,
    SETTINGS,
    Auth,
    ConsoleConfig,
    DestinationConfig,
    Level,
    LogFormat,
    LoggingConfig,
    NotifyConfig,
    ReceiverConfig,
    RetentionConfig,
    Setting,
    SpoolConfig,
    UploaderConfig,
    Verify,
)
from common.settings_console import MailSecurity
from common.settings_sources import Draft, read_environment, read_file
from common.settings_texts import File, Network
from common.settings_types import UnfitError

__all__ = [
    "SETTINGS",
    "Auth",
    "Config",
    "ConsoleConfig",
    "DestinationConfig",
    "Level",
    "LogFormat",
    "LoggingConfig",
    "MailSecurity",
    "Network",
    "NotifyConfig",
    "ReceiverConfig",
    "RetentionConfig",
    "Setting",
    "SpoolConfig",
    "UploaderConfig",
    "Verify",
    "load",
    "load_or_exit",
    "loaded_or_exit",
    "parser_of",
]

_BROKEN = 2

# Which `auth` a key belongs to. bearer needs one of two, google and aws find their credentials by themselves.
_CREDENTIALS = {
    "username": Auth.BASIC,
    "password": Auth.BASIC,
    "token": Auth.BEARER,
    "token_file": Auth.BEARER,
    "oauth2_token_url": Auth.OAUTH2,
    "oauth2_client_id": Auth.OAUTH2,
    "oauth2_client_secret": Auth.OAUTH2,
    "oauth2_scope": Auth.OAUTH2,
}
_NEEDED = frozenset(("username", "password", "oauth2_token_url", "oauth2_client_id", "oauth2_client_secret"))

# The module that an `auth` needs beside requirements.txt, and the file that pins it.
_LIBRARIES = {Auth.GOOGLE: ("google.auth", "requirements-google.txt"), Auth.AWS: ("botocore", "requirements-aws.txt")}


@dataclass(frozen=True, slots=True)
class Config:
    """The effective configuration.

    Attributes:
        path: the ini file it came from; relative paths in it are relative to its folder.
        spool: section [spool].
        receiver: section [receiver].
        destination: section [destination].
        uploader: section [uploader].
        console: section [console].
        notify: section [notify].
        retention: section [retention].
        logging: section [logging].
    """

    path: Path
    spool: SpoolConfig = field(default_factory=SpoolConfig)
    receiver: ReceiverConfig = field(default_factory=ReceiverConfig)
    destination: DestinationConfig = field(default_factory=DestinationConfig)
    uploader: UploaderConfig = field(default_factory=UploaderConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    notify: NotifyConfig = field(default_factory=NotifyConfig)
    retention: RetentionConfig = field(default_factory=RetentionConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    def describe(self) -> str:
        """Return the configuration in ini form, every key of it, with secrets and credentials masked."""
        lines = []
        for section in SECTIONS:
            lines += [f"[{section}]"]
            for setting in _settings_of(section):
                shown = setting.kind.show(getattr(getattr(self, section), setting.key))
                lines += [f"{setting.key} = {shown}".rstrip()]
            lines += [""]
        return "\n".join(lines)


def load(
    path: Path,
    environ: Mapping[str, str] | None = None,
    *,
    files_of: Collection[str] = (),
    secrets_of: Collection[str] = SECTIONS,
) -> Config:
    """Return the configuration of the ini file at `path`, overridden by the environment.

    Args:
        path: the ini file, UTF-8.
        environ: the environment; None stands for that of this process.
        files_of: sections whose files must exist and be readable by this process, and whose optional libraries
            must be installed.
        secrets_of: sections whose credentials must be there. They come from the environment of the process that needs
            them: another one gets by without, and they are empty for it.

    Raises:
        ConfigError: something is wrong; it carries every problem found, and no secret.
        ValueError: `files_of` or `secrets_of` names no section.
    """
    for what, names in (("files_of", files_of), ("secrets_of", secrets_of)):
        if unknown := set(names) - set(SECTIONS):
            raise ValueError(f"{what}: expected section names, found {sorted(unknown)}")
    path = path.absolute()
    draft = Draft()
    read_file(path, draft)
    read_environment(os.environ if environ is None else environ, draft)

    values: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for setting in SETTINGS.values():
        try:
            value = setting.kind.parse(draft.text(setting.section, setting.key), path.parent)
        except UnfitError as error:
            draft.refuse(setting.section, setting.key, f"expected {setting.kind.expected}, found {error.found}")
        else:
            values[setting.section][setting.key] = value
    _check_receiver(draft)
    _check_destination(draft, values["destination"], complete="destination" in secrets_of)
    _check_backoff(draft, values["uploader"])
    _check_notify(draft, values["notify"], complete="notify" in secrets_of)
    for section in SECTIONS:
        if section in files_of:
            _check_files(draft, section, values[section])
    if "destination" in files_of:
        _check_library(draft, values["destination"].get("auth"))

    if draft.problems:
        raise ConfigError(tuple(draft.problems))
    return Config(
        path=path,
        spool=SpoolConfig(**values["spool"]),
        receiver=ReceiverConfig(**values["receiver"]),
        destination=DestinationConfig(**values["destination"]),
        uploader=UploaderConfig(**values["uploader"]),
        console=ConsoleConfig(**values["console"]),
        notify=NotifyConfig(**values["notify"]),
        retention=RetentionConfig(**values["retention"]),
        logging=LoggingConfig(**values["logging"]),
    )


def load_or_exit(argv: Sequence[str], *, prog: str, files_of: Collection[str] = ()) -> Config:
    """Return the configuration that the command line of an entry point names.

    Args:
        argv: the arguments, without the program's name: `--config FILE` or `--help`.
        prog: how the program is started, for its usage text.
        files_of: as for `load`; and the sections whose credentials must be there.

    Raises:
        SystemExit: 2 after printing every problem of the configuration or the command line to standard
            error, 0 after `--help`.
    """
    return loaded_or_exit(parser_of(prog).parse_args(argv).config, prog=prog, files_of=files_of)


def parser_of(prog: str) -> argparse.ArgumentParser:
    """A command line that knows --config; an entry point may add to it."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    parser.add_argument(
        "--config", type=Path, default=Path("pipeline.ini"), metavar="FILE", help="the settings (default: %(default)s)"
    )
    return parser


def loaded_or_exit(path: Path, *, prog: str, files_of: Collection[str] = ()) -> Config:
    """Return the configuration of an ini file.

    Args:
        path: the ini file.
        prog: how the program is started.
        files_of: as for `load`.

    Raises:
        SystemExit: 2 after printing every problem of it to standard error.
    """
    try:
        return load(path, files_of=files_of, secrets_of=files_of)
    except ConfigError as error:
        count = f"{len(error.problems)} problem{'s' if len(error.problems) > 1 else ''}"
        lines = [f"{prog}: the configuration {path} is broken, {count}:", *(f"  {line}" for line in error.problems)]
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        raise SystemExit(_BROKEN) from None


def _settings_of(section: str) -> list[Setting]:
    return [setting for setting in SETTINGS.values() if setting.section == section]


def _is_set(draft: Draft, section: str) -> Callable[[str], bool]:
    """Return a test for whether a key has a text; even an unfit one counts, or a problem would breed others."""
    return lambda key: bool(draft.text(section, key))


def _check_receiver(draft: Draft) -> None:
    """Hold the TLS files to each other."""
    is_set = _is_set(draft, "receiver")
    for key, other in (("tls_certificate", "tls_key"), ("tls_key", "tls_certificate")):
        if is_set(other) and not is_set(key):
            draft.refuse("receiver", key, f"expected a file, because {other} is set; found nothing")
    if is_set("tls_client_ca") and not is_set("tls_certificate"):
        draft.refuse("receiver", "tls_client_ca", "expected nothing, because TLS is off without tls_certificate")


def _check_destination(draft: Draft, values: Mapping[str, Any], *, complete: bool) -> None:
    """Hold the keys of [destination] to each other; `complete`: its credentials must be there."""
    is_set = _is_set(draft, "destination")
    if is_set("client_key") and not is_set("client_certificate"):
        draft.refuse("destination", "client_key", "expected nothing, because client_certificate is not set")

    auth: Auth | None = values.get("auth")
    if auth is None:
        return
    for key, owner in _CREDENTIALS.items():
        if auth is not owner and is_set(key):
            draft.refuse("destination", key, f"expected nothing, because auth is {auth.value}, not {owner.value}")
        elif complete and auth is owner and key in _NEEDED and not is_set(key):
            draft.refuse("destination", key, f"expected a value, because auth is {auth.value}; found nothing")
    both = is_set("token") and is_set("token_file")
    neither = not is_set("token") and not is_set("token_file")
    if auth is Auth.BEARER and (both or (neither and complete)):
        found = "found both" if both else "found nothing"
        draft.refuse("destination", "token", f"expected a value here or in token_file, because auth is bearer; {found}")
    for name, _ in values.get("headers", ()):
        ours = auth is not Auth.NONE and name.lower() == "authorization"
        if ours or (auth is Auth.AWS and name.lower().startswith("x-amz-")):
            draft.refuse("destination", "headers", f"expected no {name}, because auth is {auth.value}")


def _check_library(draft: Draft, auth: Auth | None) -> None:
    """Look for the optional library of an `auth`, without importing it."""
    library, extra = _LIBRARIES.get(auth, ("", "")) if auth else ("", "")
    if library and not _is_installed(library):
        command = f"{sys.executable or 'python3'} -m pip install -r {extra}"
        why = f"{library} must be installed for {auth.value if auth else ''}; found none: {command}"
        draft.refuse("destination", "auth", why)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it should be in
        return False


def _check_backoff(draft: Draft, uploader: Mapping[str, float]) -> None:
    """Hold the waits to each other, if both are fit by themselves."""
    key, limit = "backoff_initial_seconds", "backoff_max_seconds"
    if {key, limit} <= uploader.keys() and uploader[key] > uploader[limit]:
        show = SETTINGS["uploader", key].kind.show
        found = f"expected at most {limit}, which is {show(uploader[limit])}, found {show(uploader[key])}"
        draft.refuse("uploader", key, found)


def _check_notify(draft: Draft, values: Mapping[str, Any], *, complete: bool) -> None:
    """Hold the keys of [notify] to each other; `complete`: its password must be there."""
    is_set = _is_set(draft, "notify")

    def refuse(key: str, why: str) -> None:
        draft.refuse("notify", key, why)

    if is_set("mail_server"):
        for key in ("mail_from", "mail_to"):
            if not is_set(key):
                refuse(key, "expected a value, because mail_server is set; found nothing")
        for key, other in (("mail_username", "mail_password"), ("mail_password", "mail_username")):
            if is_set(other) and not is_set(key) and (complete or key == "mail_username"):
                refuse(key, f"expected a value, because {other} is set; found nothing")
        if is_set("mail_password") and values.get("mail_security") is MailSecurity.NONE:
            refuse("mail_password", "expected nothing, because mail_security is none: anybody on the way could read it")
    else:
        for key in ("mail_username", "mail_password", "mail_from", "mail_to"):
            if is_set(key):
                refuse(key, "expected nothing, because mail_server is not set")
    if is_set("ca_bundle") and not is_set("webhook_url") and not is_set("mail_server"):
        refuse("ca_bundle", "expected nothing, because neither webhook_url nor mail_server is set")


def _check_files(draft: Draft, section: str, values: Mapping[str, Any]) -> None:
    """Open each file that `section` names."""
    for setting in _settings_of(section):
        path = values.get(setting.key)
        if isinstance(setting.kind, File) and path is not None:
            found = _unreadable(path)
            if found:
                shown = setting.kind.show(path)
                draft.refuse(section, setting.key, f"expected a readable file, found {found} at {shown}")


def _unreadable(path: Path) -> str:
    """Return what stands at `path` instead of a readable file; "" if it is one."""
    try:
        # Opening a FIFO would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            return "something else"
        path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError):
        return "none"
    except OSError as error:
        return f"one that cannot be read ({error.strerror})"
    return ""
