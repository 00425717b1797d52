"""`dispatch cert`: the certificate that TLS shows to clients."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from dispatch.cli.control_bus import Sources, ask_control, print_changed
from dispatch.cli.options import (
    ConfigOption,
    DataOption,
    JsonOption,
    SetOption,
    fail,
    new_group,
    print_json,
)
from dispatch.settings.requests import (
    CertificateFacts,
    CertificateShown,
    Changed,
    GenerateCertificate,
    RemoveCertificate,
    ShowCertificate,
    UploadCertificate,
)

app = new_group("Show, make, upload or remove the certificate of this relay.")

_FILE_BYTES_MAX = 1 << 20
"""What is larger is no certificate; the exact limit is checked with everything else."""


@app.command()
def show(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Whose it is, for which names, and until when."""
    shown = ask_control(Sources(config, data, set_ or ()), ShowCertificate(), CertificateShown).certificate
    if as_json:
        print_json(shown)
    elif shown is None:
        typer.echo("There is no certificate: TLS is not offered. `dispatch cert generate` makes one.")
    else:
        for name, value in _lines(shown):
            typer.echo(f"{name:<12}  {value}")


@app.command()
def generate(
    name: Annotated[
        list[str] | None, typer.Option("--name", help="One more name or address. Repeatable.")
    ] = None,
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Make a self-signed certificate for all names and addresses of this machine. It replaces any."""
    order = GenerateCertificate(tuple(name or ()))
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed("A new certificate is in use.", changed, as_json)


@app.command()
def upload(
    chain: Annotated[Path, typer.Argument(metavar="CHAIN", help="PEM: the certificate, then its chain.")],
    key: Annotated[Path, typer.Argument(metavar="KEY", help="PEM: the private key, not encrypted.")],
    as_json: JsonOption = False,
    config: ConfigOption = None,
    data: DataOption = None,
    set_: SetOption = None,
) -> None:
    """Use a certificate that somebody issued; it is checked before it replaces anything."""
    order = UploadCertificate(_read(chain), _read(key))
    changed = ask_control(Sources(config, data, set_ or ()), order, Changed)
    print_changed("The certificate is in use.", changed, as_json)


@app.command()
def remove(
    as_json: JsonOption = False, config: ConfigOption = None, data: DataOption = None, set_: SetOption = None
) -> None:
    """Remove the certificate: TLS is not offered until another one is made or uploaded."""
    changed = ask_control(Sources(config, data, set_ or ()), RemoveCertificate(), Changed)
    print_changed("The certificate is removed.", changed, as_json)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_FILE_BYTES_MAX)
    except OSError as error:
        fail(os.EX_NOINPUT, f"{path} cannot be read: {error.strerror}")


def _lines(shown: CertificateFacts) -> list[tuple[str, object]]:
    if shown.made_here:
        kind = "self-signed, made and renewed by this relay"
    else:
        kind = "uploaded, self-signed" if shown.self_signed else f"uploaded, issued by {shown.issuer}"
    return [
        ("subject", shown.subject),
        ("kind", kind),
        ("names", ", ".join(shown.names)),
        ("valid from", f"{shown.not_before:%Y-%m-%d %H:%M} UTC"),
        ("valid until", f"{shown.not_after:%Y-%m-%d %H:%M} UTC ({shown.days_left} days left)"),
        ("key", shown.key_type),
        ("SHA-256", shown.fingerprint),
    ]
