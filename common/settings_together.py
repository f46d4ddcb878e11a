"""What settings must be to each other, and what must be there for them: files, credentials, optional libraries.

Each setting by itself is held to its kind; here is what only several of them, or the machine, can tell.
"""

import importlib.util
import stat
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from common.settings import SECTIONS, SETTINGS, Auth, Setting
from common.settings_console import MailSecurity
from common.settings_sources import Draft
from common.settings_texts import File

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


def check_together(
    draft: Draft,
    values: Mapping[str, Mapping[str, Any]],
    *,
    files_of: Collection[str],
    secrets_of: Collection[str],
) -> None:
    """Refuse in `draft` what does not fit.

    Args:
        draft: the texts, and the problems that were found.
        values: by section and key; those that are unfit by themselves are left out.
        files_of: sections whose files must be readable, and whose optional libraries installed.
        secrets_of: sections whose credentials must be there.
    """
    _check_receiver(draft)
    _check_destination(draft, values["destination"], complete="destination" in secrets_of)
    _check_backoff(draft, values["uploader"])
    _check_notify(draft, values["notify"], complete="notify" in secrets_of)
    for section in SECTIONS:
        if section in files_of:
            _check_files(draft, section, values[section])
    if "destination" in files_of:
        _check_library(draft, values["destination"].get("auth"))


def settings_of(section: str) -> list[Setting]:
    """The settings of a section, in their order."""
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
    for setting in settings_of(section):
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
