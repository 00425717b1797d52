"""How `relay add` and `relay set` get secrets: typed without echo, or read from a file or standard input.

Never as an argument (`dispatch.cli.passwords` says why). What has several lines, a service account's JSON or
a private key, cannot be typed and comes from a file; of a secret in one line its line break is no part.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from dispatch.cli.options import fail
from dispatch.settings.kinds import Secret
from dispatch.settings.model import KEYS
from dispatch.settings.requests import Value

SECRET_BYTES_MAX = 64 << 10
STDIN = "-"

SecretOption = Annotated[
    list[str] | None,
    typer.Option("--secret", metavar="KEY", help="Ask for a key that is secret. Repeatable."),
]
SecretFromOption = Annotated[
    list[str] | None,
    typer.Option(
        "--secret-from",
        metavar="KEY=FILE",
        help="Read a key that is secret from a file; - is standard input. Repeatable.",
    ),
]


def given_secrets(
    section: str, name: str, asked: list[str] | None, files: list[str] | None
) -> dict[str, Value | None]:
    """What `--secret` and `--secret-from` give, by key; ends the program with 64, 65 or 66 where it is none.

    Nothing is asked for or read before all of the arguments are known to be right.
    """
    sources: dict[str, str | None] = {}
    for key, file in [*((written, None) for written in asked or ()), *map(_key_and_file, files or ())]:
        key = _secret_key(section, key)
        if key in sources:
            fail(os.EX_USAGE, f"{key} is given twice.")
        if file is None and not _in_one_line(section, key):
            fail(os.EX_USAGE, f"{key} has several lines: say --secret-from {key}=FILE.")
        sources[key] = file
    if list(sources.values()).count(STDIN) > 1:
        fail(os.EX_USAGE, "standard input holds one secret: name a file for the others.")
    return {
        key: _typed(f"{key} of {name}", key)
        if file is None
        else _read(file, in_one_line=_in_one_line(section, key))
        for key, file in sources.items()
    }


def _key_and_file(argument: str) -> tuple[str, str]:
    key, equals, file = argument.partition("=")
    if not equals or not file:
        fail(os.EX_USAGE, f"{argument} is no KEY=FILE; FILE is - for standard input.")
    return key, file


def _secret_key(section: str, written: str) -> str:
    """The key as the settings have it; ends the program with 64 where it is none that is secret."""
    key = written.strip().lower().replace("-", "_")
    secret = [name for name, entry in KEYS[section].items() if entry.key.secret]
    if key not in secret:
        known = f"one of {', '.join(secret)}" if secret else "there is none here"
        fail(os.EX_USAGE, f"{key} is no key that is secret ({known}): write KEY=VALUE.")
    return key


def _in_one_line(section: str, key: str) -> bool:
    return isinstance(KEYS[section][key].key.kind, Secret)


def _typed(what: str, key: str) -> str:
    if not sys.stdin.isatty():
        fail(os.EX_USAGE, f"there is no terminal to type it at: say --secret-from {key}=FILE, or {key}=-.")
    # Once: what a provider made is pasted, and an error shows as soon as it is used.
    return str(typer.prompt(what, hide_input=True))


def _read(file: str, *, in_one_line: bool) -> str:
    """The text of a file, or of standard input; ends the program with 65 or 66 where it is no secret."""
    what = "standard input" if file == STDIN else file
    try:
        if file == STDIN:
            octets = sys.stdin.buffer.read(SECRET_BYTES_MAX + 1)
        else:
            with Path(file).open("rb") as opened:
                octets = opened.read(SECRET_BYTES_MAX + 1)
    except OSError as error:
        fail(os.EX_NOINPUT, f"{what} cannot be read: {error.strerror}.")
    if len(octets) > SECRET_BYTES_MAX:
        fail(os.EX_DATAERR, f"{what} has more than {SECRET_BYTES_MAX} bytes: that is no secret.")
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        fail(os.EX_DATAERR, f"{what} is not UTF-8.")
    if in_one_line:
        text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        fail(os.EX_DATAERR, f"{what} is empty.")
    return text
