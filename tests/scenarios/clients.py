"""The clients that people use, each with one way to hand a given content in, as it is."""

from __future__ import annotations

import json
import re
import smtplib
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.scenarios.offers import HELO, Offer
from tests.scenarios.programs import NODEMAILER, needed, node_package
from tests.scenarios.relay import BOUND_S

Client = Callable[[int, Path, Offer], None]
"""Port, a folder for files, what is to be sent. Raises where it was not accepted."""


def _run(command: list[str], stdin: bytes | None = None, folder: Path | None = None) -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, cwd=folder, check=False)
    assert done.returncode == 0, (
        f"{command}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
    )


def _file(folder: Path, content: bytes) -> str:
    path = folder / "offer.eml"
    path.write_bytes(content)
    return str(path)


def with_smtplib(port: int, folder: Path, offer: Offer) -> None:
    international = not "".join((offer.sender, *offer.recipients)).isascii()
    options = ["BODY=8BITMIME", *(["SMTPUTF8"] if international else [])]
    with smtplib.SMTP("127.0.0.1", port, local_hostname=HELO, timeout=BOUND_S) as client:
        client.sendmail(offer.sender, list(offer.recipients), offer.content, mail_options=options)


def with_swaks(port: int, folder: Path, offer: Offer) -> None:
    # Left to itself, swaks ends the last line also where it is ended; so the end of data is ours, too.
    stuffed = re.sub(rb"(?m)^\.", b"..", offer.content) + b"."
    _run(
        [
            *(needed("swaks", "swaks"), "--server", "127.0.0.1", "--port", str(port), "--helo", HELO),
            *("--from", offer.sender, "--to", ",".join(offer.recipients)),
            *("--no-data-fixup", "--data", f"@{_file(folder, stuffed)}"),
        ]
    )


def with_curl(port: int, folder: Path, offer: Offer) -> None:
    to = [word for recipient in offer.recipients for word in ("--mail-rcpt", recipient)]
    _run(
        [
            *(needed("curl", "curl"), "-sS", f"smtp://127.0.0.1:{port}/{HELO}"),
            *("--mail-from", offer.sender, *to, "-T", _file(folder, offer.content)),
        ]
    )


def with_msmtp(port: int, folder: Path, offer: Offer) -> None:
    switched_off = (
        "auth",
        "tls",
        "set-date-header",
        "set-msgid-header",
        "set-from-header",
        "remove-bcc-headers",
    )
    _run(
        [
            *(needed("msmtp", "msmtp"), "--file=/dev/null", "--host=127.0.0.1", f"--port={port}"),
            *(f"--domain={HELO}", f"--from={offer.sender}", *(f"--{name}=off" for name in switched_off)),
            *("--", *offer.recipients),
        ],
        stdin=offer.content.replace(b"\r\n", b"\n"),
    )


def with_nodemailer(port: int, folder: Path, offer: Offer) -> None:
    mail = {
        "envelope": {"from": offer.sender, "to": list(offer.recipients)},
        "raw": {"path": _file(folder, offer.content)},
    }
    node_sends(port, mail)


_NODE = """
const { port, helo, mail } = JSON.parse(require("fs").readFileSync(0));
const { createTransport } = require("nodemailer");
const transport = createTransport({ host: "127.0.0.1", port, name: helo, ignoreTLS: true });
transport.sendMail(mail).catch((error) => { console.error(error); process.exit(1); });
"""


def node_sends(port: int, mail: dict[str, object]) -> None:
    """Let nodemailer send a mail of its own composition."""
    node, folder = node_package(NODEMAILER)
    order = {"port": port, "helo": HELO, "mail": mail}
    _run([node, "-e", _NODE], stdin=json.dumps(order).encode(), folder=folder)


CLIENTS: dict[str, Client] = {
    "smtplib": with_smtplib,
    "swaks": with_swaks,
    "curl": with_curl,
    "msmtp": with_msmtp,
    "nodemailer": with_nodemailer,
}
