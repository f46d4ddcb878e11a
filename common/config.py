"""pipeline.ini and the environment, made into one frozen, typed `Config`. It does not know who uses it.

`load` either returns a configuration that is whole, or raises ConfigError with every problem found; nothing
is a warning. A setting is never ignored: one that has no effect beside the others is refused.

What each setting is, its default and its range is declared in `common.settings`, and nowhere else.
"""

import argparse
import os
import sys
from collections.abc import Collection, Mapping, Sequence
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
from common.settings_texts import Network
from common.settings_together import check_together, settings_of
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
            for setting in settings_of(section):
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
    check_together(draft, values, files_of=files_of, secrets_of=secrets_of)

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
