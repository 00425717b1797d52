"""The same clients over TLS and with a login: one way each to do what their users do."""

from __future__ import annotations

import json
import smtplib
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from tests.scenarios.offers import HELO
from tests.scenarios.programs import NODEMAILER, needed, node_package
from tests.scenarios.relay import BOUND_S

Mode = Literal["none", "starttls", "implicit"]


class Way(NamedTuple):
    """How a client comes in."""

    port: int
    mode: Mode
    user: str | None = None
    password: str = ""


SENDER, RECIPIENT = "me@example.org", "you@example.net"
CONTENT = (
    b"From: Me <me@example.org>\r\nTo: you@example.net\r\nSubject: Secured\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <given@example.org>\r\n\r\nIt works.\r\n"
)

SecureClient = Callable[[Way, Path], bool]
"""Whether it was accepted."""


def _accepted(command: list[str], stdin: bytes | None = None, folder: Path | None = None) -> bool:
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=60, cwd=folder, check=False)
    return done.returncode == 0


def _file(folder: Path) -> str:
    path = folder / "secured.eml"
    path.write_bytes(CONTENT)
    return str(path)


def unverified() -> ssl.SSLContext:
    """The relay's certificate is its own, which a client has to be told."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def with_smtplib(way: Way, folder: Path) -> bool:
    kind = smtplib.SMTP_SSL if way.mode == "implicit" else smtplib.SMTP
    more = {"context": unverified()} if way.mode == "implicit" else {}
    try:
        with kind("127.0.0.1", way.port, local_hostname=HELO, timeout=BOUND_S, **more) as client:  # type: ignore[arg-type]
            if way.mode == "starttls":
                client.starttls(context=unverified())
            if way.user is not None:
                client.login(way.user, way.password)
            client.sendmail(SENDER, [RECIPIENT], CONTENT)
    except (smtplib.SMTPException, OSError):
        return False
    return True


def with_swaks(way: Way, folder: Path) -> bool:
    tls = {"none": [], "starttls": ["--tls"], "implicit": ["--tlsc"]}[way.mode]
    login = (
        []
        if way.user is None
        else ["--auth", "LOGIN", "--auth-user", way.user, "--auth-password", way.password]
    )
    return _accepted(
        [
            *(needed("swaks", "swaks"), "--server", "127.0.0.1", "--port", str(way.port), "--helo", HELO),
            *("--from", SENDER, "--to", RECIPIENT, "--data", f"@{_file(folder)}", *tls, *login),
        ]
    )


def with_curl(way: Way, folder: Path) -> bool:
    scheme = "smtps" if way.mode == "implicit" else "smtp"
    tls = [] if way.mode == "none" else ["--insecure", *(["--ssl-reqd"] if way.mode == "starttls" else [])]
    login = [] if way.user is None else ["--user", f"{way.user}:{way.password}"]
    return _accepted(
        [
            *(needed("curl", "curl"), "-sS", f"{scheme}://127.0.0.1:{way.port}/{HELO}", *tls, *login),
            *("--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "-T", _file(folder)),
        ]
    )


def with_msmtp(way: Way, folder: Path) -> bool:
    lines = [
        "account default",
        "host 127.0.0.1",
        f"port {way.port}",
        f"domain {HELO}",
        f"from {SENDER}",
        f"tls {'off' if way.mode == 'none' else 'on'}",
        f"tls_starttls {'on' if way.mode == 'starttls' else 'off'}",
        "tls_certcheck off",
        "set_date_header off",
    ]
    if way.user is not None:
        lines += ["auth plain", f"user {way.user}", f"password {way.password}"]
    file = folder / "msmtprc"
    file.write_text("\n".join(lines) + "\n")
    file.chmod(0o600)
    return _accepted(
        [needed("msmtp", "msmtp"), f"--file={file}", "--", RECIPIENT], stdin=CONTENT.replace(b"\r\n", b"\n")
    )


_NODE = """
const { port, helo, mode, user, password, mail } = JSON.parse(require("fs").readFileSync(0));
const { createTransport } = require("nodemailer");
const transport = createTransport({
  host: "127.0.0.1", port, name: helo, secure: mode === "implicit", requireTLS: mode === "starttls",
  ignoreTLS: mode === "none", tls: { rejectUnauthorized: false },
  auth: user === null ? undefined : { user, pass: password },
});
transport.sendMail(mail).catch((error) => { console.error(error); process.exit(1); });
"""


def with_nodemailer(way: Way, folder: Path) -> bool:
    node, where = node_package(NODEMAILER)
    mail = {"envelope": {"from": SENDER, "to": [RECIPIENT]}, "raw": {"path": _file(folder)}}
    return _accepted(
        [node, "-e", _NODE],
        stdin=json.dumps({**way._asdict(), "helo": HELO, "mail": mail}).encode(),
        folder=where,
    )


CLIENTS: dict[str, SecureClient] = {
    "smtplib": with_smtplib,
    "swaks": with_swaks,
    "curl": with_curl,
    "msmtp": with_msmtp,
    "nodemailer": with_nodemailer,
}
