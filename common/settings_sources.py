"""Where the texts of the settings come from: the ini file, then the environment, which wins.

Nothing here is fatal by itself: every fault is kept as a problem of the draft, and reading goes on, so that
an operator learns of all of them at once. No problem repeats a line or a value of the file, since either may
be a secret.
"""

import configparser
import difflib
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from common.settings import SECTIONS, SETTINGS, Setting

_MAX_FILE_BYTES = 1_000_000
_MAX_SYNTAX_PROBLEMS = 50

# configparser's own pattern ignores what follows the bracket: "[spool] min_free = 0" would lose a setting.
_HEADER = re.compile(r"\[(?P<header>[^\]]+)\]$")
# More than three digits, or punctuation, look like a token whose line was broken.
_PLAUSIBLE_NAME = re.compile(r"(?!(?:.*[0-9]){4})[a-z][a-z0-9_. -]{0,39}", re.IGNORECASE)


class Draft:
    """The texts of all settings, with the place where each was found.

    Attributes:
        problems: one line for each fault, in the order found.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._texts = {name: setting.default for name, setting in SETTINGS.items()}
        self._places = {name: f"[{name[0]}] {name[1]}" for name in SETTINGS}

    def put(self, setting: Setting, text: str, *, variable: str = "") -> None:
        """Set the text of a setting, as found in the file or in the environment `variable`."""
        name = setting.section, setting.key
        self._texts[name] = text if setting.kind.secret else text.strip()
        self._places[name] = f"{variable} (for [{name[0]}] {name[1]})" if variable else f"[{name[0]}] {name[1]}"

    def text(self, section: str, key: str) -> str:
        """Return the text of a setting; the default if it was found nowhere."""
        return self._texts[section, key]

    def refuse(self, section: str, key: str, why: str) -> None:
        """Add a problem with the setting's place in front."""
        self.problems.append(f"{self._places[section, key]}: {why}")


def read_file(path: Path, draft: Draft) -> None:
    """Put the texts of the ini file at `path` into `draft`."""
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        draft.problems.append(f"{path}: expected a readable file, found none")
        return
    except OSError as error:
        draft.problems.append(f"{path}: expected a readable file, found: {error.strerror}")
        return
    if len(raw) > _MAX_FILE_BYTES:
        draft.problems.append(f"{path}: expected a file of at most {_MAX_FILE_BYTES} bytes, found a longer one")
        return
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        draft.problems.append(f"{path.name}, line {line}: expected UTF-8, found byte 0x{raw[error.start]:02x}")
        return
    for section, texts in _parse(text.split("\n"), path.name, draft.problems):
        if section not in SECTIONS:
            draft.problems.append(f"[{_name(section)}]: unknown section{_suggestion(section, SECTIONS, '[{}]')}")
            continue
        for key, value in texts.items():
            setting = SETTINGS.get((section, key))
            if setting:
                draft.put(setting, value)
            else:
                draft.problems.append(f"[{section}] {_name(key)}: unknown key{_place_of(key, section)}")


def read_environment(environ: Mapping[str, str], draft: Draft) -> None:
    """Put the texts of the variables STOWGATE_<SECTION>_<KEY> into `draft`; other variables are not ours."""
    settings = {setting.variable: setting for setting in SETTINGS.values()}
    for variable, text in sorted(environ.items()):
        _, _, rest = variable.partition("STOWGATE_")
        section, _, key = rest.partition("_")
        if not variable.startswith("STOWGATE_") or section.lower() not in SECTIONS or not key:
            continue
        if variable in settings:
            draft.put(settings[variable], text, variable=variable)
        else:
            known = [name for name, setting in settings.items() if setting.section == section.lower()]
            suggestion = _suggestion(variable.upper(), known, "{}")
            draft.problems.append(f"{_name(variable)}: unknown key of [{section.lower()}]{suggestion}")


def _parse(lines: list[str], file_name: str, problems: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the sections with their texts by key.

    configparser stops at its first duplicate, so the duplicate gets another name and reading starts again. A
    second section of one name is still read, so that no other problem follows from what it holds.
    """
    aside: dict[str, str] = {}
    while len(problems) < _MAX_SYNTAX_PROBLEMS:
        # No section can be named "", so none is taken for defaults of the others.
        parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#", ";"), default_section="")
        parser.SECTCRE = _HEADER
        try:
            parser.read_string("\n".join(lines))
        except configparser.DuplicateOptionError as error:
            number = error.lineno or 1
            section, key = aside.get(error.section, error.section), error.option
            problems.append(f"{file_name}, line {number}: [{_name(section)}] {_name(key)}: set twice")
            aside[f"line {number}"] = key
            lines[number - 1] = f"line {number} ="
        except configparser.DuplicateSectionError as error:
            number = error.lineno or 1
            problems.append(f"{file_name}, line {number}: [{_name(error.section)}]: a second section of this name")
            aside[f"line {number}"] = error.section
            lines[number - 1] = f"[line {number}]"
        except configparser.MissingSectionHeaderError as error:
            problems.append(f"{file_name}, line {error.lineno}: expected a [section] first")
            lines[error.lineno - 1] = "#"
        except configparser.ParsingError as error:
            for number, _ in error.errors:
                problems.append(f"{file_name}, line {number}: expected key = value")
                lines[number - 1] = "#"
        else:
            return [
                (aside.get(name, name), {key: text for key, text in parser.items(name) if key not in aside})
                for name in parser.sections()
            ]
    problems.append(f"{file_name}: so many problems that reading stopped here")
    return []


def _name(name: str) -> str:
    """Return an unknown name for a problem, unless it may be a secret that slipped into the wrong place."""
    return name if _PLAUSIBLE_NAME.fullmatch(name) else "(a name that is not shown)"


def _place_of(key: str, section: str) -> str:
    """Return a hint at what an unknown key of `section` may have been meant to be."""
    suggestion = _suggestion(key, [known for owner, known in SETTINGS if owner == section], "{}")
    owners = [f"[{owner}]" for owner, known in SETTINGS if known == key]
    return suggestion if suggestion or not owners else f"; it belongs in {' or '.join(owners)}"


def _suggestion(name: str, known: Collection[str], form: str) -> str:
    found = difflib.get_close_matches(name.lower() if form != "{}" else name, known, n=1)
    return f"; did you mean {form.format(found[0])}?" if found else ""
