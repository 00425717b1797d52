"""How commands get a password: typed twice at a terminal, or read from standard input. Never as an argument,
which every user of the machine can read while the command runs, and the shell's history for ever."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from dispatch.cli.options import fail

PASSWORD_BYTES_MAX = 4096

PasswordStdinOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input (its first line).")
]


def ask_password(what: str, *, from_stdin: bool) -> str:
    """The password; ends the program with 64 (EX_USAGE) where there is nobody to type one, or it is empty."""
    if from_stdin:
        line = sys.stdin.buffer.readline(PASSWORD_BYTES_MAX + 2)
        password = line.decode("utf-8", "surrogateescape").removesuffix("\n").removesuffix("\r")
    elif sys.stdin.isatty():
        password = str(typer.prompt(what, hide_input=True, confirmation_prompt=True))
    else:
        fail(os.EX_USAGE, "there is no terminal to type a password at: pipe it in with --password-stdin.")
    if not password:
        fail(os.EX_USAGE, "an empty password protects nothing.")
    if len(password.encode("utf-8", "surrogateescape")) > PASSWORD_BYTES_MAX:
        fail(os.EX_USAGE, f"a password has at most {PASSWORD_BYTES_MAX} bytes.")
    return password
