"""What lies where in the data directory, and which process writes it (docs/architecture.md).

Paths carry a shard number from the first day; there is one shard.

=====================  ============  ==========================================================
path                   only writer   what
=====================  ============  ==========================================================
mail/0/                intake        the mail log, its durable mark, and where the last power cut ended it
content/0/             intake        content files above 1 MiB; delivery removes them
refused/               intake        how often a client was turned away, a mark for each kind of refusal
closed                 intake        that no mail is taken, while an operator says so
released.mark          delivery      below it the mail log may be recycled
power.mark             delivery      the mail log's durable mark as a power cut had left it
ledger/0/              delivery      the ledger, its durable mark, and whether a sync of it has failed
checkpoint.mark        delivery      where a restart begins to read the ledger
in-hand                delivery      who is being worked on
start-*                delivery      the machine's last start: a later one means a power cut
parked.db              delivery      the parked store
paused                 delivery      which relays an operator has paused, while there is one
captured/              delivery      the local inbox
followed.mark          control       how far control has read the ledger
history.db             control       history and counters
settings/              control       a settings snapshot for each role; the first by the supervisor. And
                                     `delivery.tokens`, refresh tokens in place of the configured ones; and
                                     digests of the suppression list
settings.db            control       relays, rules and logins that were configured here; the vault's values;
                                     the suppression list
certificates/          control       the shared certificate with its key, encrypted (PKCS#12)
.dispatch-key          supervisor    the vault's key, unless it is kept elsewhere (DISPATCH_KEY_DIR)
applied-<role>.mark    that role     the number of the settings that it works by
supervisor.lock        supervisor    held for life, as each role holds `lock` in its own folder
run/                   all           sockets of the bus, and of the hints
=====================  ============  ==========================================================
"""

from __future__ import annotations

from pathlib import Path

MAIL = "mail/0"
LEDGER = "ledger/0"
CONTENT = "content/0"
CAPTURED = "captured"
PARKED = "parked.db"
HISTORY = "history.db"
SETTINGS = "settings.db"


class Folders:
    """Paths below one data directory."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.mail = data / MAIL
        self.ledger = data / LEDGER
        self.content = data / CONTENT
        self.captured = data / CAPTURED
        self.settings = data / "settings"
        self.refusals = data / "refused"
        self.run = data / "run"
        self.parked_db = data / PARKED
        self.history_db = data / HISTORY
        self.settings_db = data / SETTINGS
        self.certificates = data / "certificates"
        self.in_hand = data / "in-hand"
        self.mail_durable = self.mail / "durable.mark"
        self.mail_cut = self.mail / "cut.mark"
        self.ledger_doubt = self.ledger / "doubt.mark"
        self.ledger_durable = self.ledger / "durable.mark"
        self.released = data / "released.mark"
        self.power = data / "power.mark"
        self.checkpoint = data / "checkpoint.mark"
        self.followed = data / "followed.mark"

    def existing(self) -> tuple[Path, ...]:
        """The folders that are there already, which whoever runs the processes must be able to write."""
        folders = (self.mail, self.ledger, self.content, self.captured, self.refusals, self.run)
        return tuple(folder for folder in folders if folder.is_dir())

    def applied(self, role: str) -> Path:
        """The mark with the number of the settings that the role works by."""
        return self.data / f"applied-{role}.mark"

    def refused(self, kind: str) -> Path:
        """The mark that counts refusals of a kind."""
        return self.refusals / f"{kind}.mark"

    def lock_of(self, role: str) -> Path:
        """The folder whose `lock` the role holds for life."""
        return {"intake": self.mail, "delivery": self.ledger, "control": self.settings}[role]
