"""Providers whose SMTP hosts are known: what a relay need not say about them.

Only what the providers publish of their hosts. Limits that hang on the contract (rates) are not repeated
here; sizes are, where they are published, and are announced in the session (SIZE) in any case. A preset is a
set of defaults for the keys of a relay, and nothing else: what is written beside it counts.
"""

from __future__ import annotations

import msgspec

_MEBIBYTE = 1 << 20

REGION = "{region}"
"""Stands in a host for the key `region`."""


class Preset(msgspec.Struct, frozen=True):
    """One provider, or one part of it."""

    title: str
    host: str
    port: int = 587
    tls: str = "starttls_required"
    username: str = ""
    """Where it is the same for everybody."""
    max_concurrency: int | None = None
    max_message_bytes: int | None = None
    messages_per_connection: int | None = None
    note: str = ""
    """What user name and password are, and what else is to be known."""

    @property
    def needs_region(self) -> bool:
        return REGION in self.host


PRESETS: dict[str, Preset] = {
    "brevo": Preset("Brevo", "smtp-relay.brevo.com", note="the SMTP login and an SMTP key"),
    "gmail": Preset("Gmail", "smtp.gmail.com", note="the address and an app password"),
    "gmail-relay": Preset(
        "Google Workspace SMTP relay",
        "smtp-relay.gmail.com",
        note="without user name where the administrator has listed this machine's address",
    ),
    "mailgun": Preset("Mailgun, US", "smtp.mailgun.org", note="SMTP credentials of the sending domain"),
    "mailgun-eu": Preset("Mailgun, EU", "smtp.eu.mailgun.org", note="SMTP credentials of the sending domain"),
    "mailjet": Preset("Mailjet", "in-v3.mailjet.com", note="the API key and the secret key"),
    "microsoft-365": Preset(
        "Microsoft 365",
        "smtp.office365.com",
        max_concurrency=3,
        note="the mailbox; SMTP AUTH must be allowed for it. Three connections at once, 30 messages a minute",
    ),
    "postmark": Preset("Postmark", "smtp.postmarkapp.com", note="the server token is both"),
    "resend": Preset("Resend", "smtp.resend.com", 465, "implicit", "resend", note="an API key as password"),
    "sendgrid": Preset("SendGrid", "smtp.sendgrid.net", username="apikey", note="an API key as password"),
    "ses": Preset(
        "Amazon SES",
        f"email-smtp.{REGION}.amazonaws.com",
        max_message_bytes=40 * _MEBIBYTE,
        note="SMTP credentials of the region, which are not the access keys",
    ),
    "smtp2go": Preset(
        "SMTP2GO", "mail.smtp2go.com", max_message_bytes=50 * _MEBIBYTE, note="an SMTP user and its password"
    ),
    "sparkpost": Preset(
        "SparkPost, US",
        "smtp.sparkpostmail.com",
        username="SMTP_Injection",
        messages_per_connection=100,
        note="an API key that may send via SMTP as password",
    ),
    "sparkpost-eu": Preset(
        "SparkPost, EU",
        "smtp.eu.sparkpostmail.com",
        username="SMTP_Injection",
        messages_per_connection=100,
        note="an API key that may send via SMTP as password",
    ),
}

_KEYS = (
    *("host", "port", "tls", "username"),
    *("max_concurrency", "max_message_bytes", "messages_per_connection"),
)


def preset_values(name: object, region: object) -> dict[str, object]:
    """What a preset says about the keys of a relay; nothing where there is no such preset."""
    preset = PRESETS.get(name) if isinstance(name, str) else None
    if preset is None:
        return {}
    said = {key: getattr(preset, key) for key in _KEYS}
    if preset.needs_region:
        said["host"] = preset.host.replace(REGION, region) if isinstance(region, str) else ""
    return {key: value for key, value in said.items() if value not in (None, "")}


def render_presets() -> str:
    """The page `docs/reference/presets.md`, Markdown."""
    lines = [
        "# Presets of relays",
        "",
        'With `preset = "NAME"` a relay has these values where it does not say another one. They are what',
        "the providers publish about their hosts.",
        "",
        "| preset | provider | host | port | tls | user name | limits | user name and password |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, preset in PRESETS.items():
        limits = [f"`{key}` {value}" for key in _KEYS[4:] if (value := getattr(preset, key)) is not None]
        cells = (
            f"`{name}`",
            preset.title,
            f"`{preset.host}`",
            str(preset.port),
            preset.tls,
            preset.username,
            ", ".join(limits),
            preset.note,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", f"`{REGION}` is the value of the relay's `region`.", ""])
