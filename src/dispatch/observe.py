"""Every log event, declared once: its name, how much it matters, and what it tells the operator.

People search for event names, alert on them and put them into scripts, so they are part of the product:
the build fails where code reports an event that is not here, or where one that is here is never
reported, and the manual's page is made from this table.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


class Reporter(Protocol):
    """How every part says what happened."""

    def __call__(self, event: str, /, **fields: object) -> None:
        """Write one line. Must not raise, and must not wait for anything but the log's own file."""
        ...


class Event(NamedTuple):
    level: Level
    meaning: str


EVENTS: dict[str, Event] = {
    # processes
    "child_started": Event("debug", "A process was started."),
    "child_ready": Event("info", "A process does its work."),
    "child_draining": Event("debug", "A process takes nothing new and finishes what is under way."),
    "child_ended": Event("info", "A process ended because it was told to."),
    "child_reloaded": Event("info", "A process has looked at its settings again."),
    "child_died": Event("warning", "A process ended by itself or was killed."),
    "child_restarts": Event("warning", "A process that died is started again after a wait."),
    "child_silent": Event("error", "A process gives no sign of life and is about to be killed."),
    "child_killed": Event("error", "A process did not end in time and was killed."),
    "child_fatal": Event("error", "A process ends because of a fault; the fault is told."),
    "gave_up": Event("error", "A process cannot be started; the relay stops with its exit code."),
    "lock_held": Event("error", "Another process works on the same data."),
    "older_set_waiting": Event(
        "info", "Processes of an earlier start still finish; this one waits for them."
    ),
    "older_set_gone": Event("info", "The processes of the earlier start have ended."),
    "ready": Event("info", "Every process is ready: the relay serves."),
    "draining": Event("info", "The relay was told to stop and finishes what is under way."),
    "drain_overdue": Event("warning", "A process could not finish in time what was under way."),
    "hurried": Event("info", "The relay was told a second time to stop: it stops at once."),
    "stopped": Event("info", "The relay has stopped."),
    "reload_forwarded": Event("info", "SIGHUP was passed on."),
    "reload_failed": Event("warning", "The new settings have mistakes; the old ones stay in force."),
    "supervisor_fault": Event(
        "error", "The machine failed the supervisor: it tries again, or stops with the code that is told."
    ),
    "supervisor_gone": Event("warning", "The supervisor has died; its children end."),
    "user_changed": Event("info", "A process runs as an unprivileged user."),
    "user_kept": Event("warning", "A process keeps running as root; why is told."),
    "connection_fault": Event("warning", "A connection was closed because of a fault in handling it."),
    "bus_refused": Event("warning", "A request on a local socket was refused."),
    "bus_fault": Event("error", "A request on a local socket met a fault."),
    # ports
    "port_refused": Event("warning", "A port could not be bound and is skipped."),
    "port_fallback": Event("warning", "Port 2525 is opened in place of one that could not be had."),
    "nothing_bound": Event("error", "No SMTP port could be bound."),
    "address_family_absent": Event("warning", "The machine has no IPv6 (or no IPv4); the other one is used."),
    # settings
    "settings_published": Event("info", "Settings were read; their number is told."),
    "settings_applied": Event("info", "A process works by new settings."),
    "settings_unreadable": Event(
        "error", "A process cannot read its new settings; it goes on with those in force."
    ),
    "settings_need_restart": Event("warning", "These settings were changed and need a restart."),
    "settings_remark": Event("warning", "The settings are good, and something about them should be known."),
    "settings_changed": Event("info", "An operator has changed a relay, a rule, a login or the certificate."),
    # secrets and certificates
    "start_refused": Event("error", "The relay does not start; why, and what to do, is told."),
    "key_made": Event("info", "The first start has made the key of the vault. Keep a copy of its file."),
    "data_remark": Event("warning", "The data directory lies where mail may get lost."),
    "key_remark": Event("warning", "Something about the file of the vault's key should be known."),
    "key_rotated": Event("info", "All secrets are sealed with a new key; the old one opens none of them."),
    "certificate_made": Event("info", "A self-signed certificate was made, or renewed."),
    "certificate_expires": Event("warning", "The certificate expires soon, or has expired."),
    "certificate_fault": Event("error", "The certificate cannot be used; why, and what goes on, is told."),
    # intake
    "accept_fault": Event(
        "error", "Connections cannot be accepted: why is told, and whether new ones are cut or wait."
    ),
    "accept_well": Event("info", "Connections are accepted again."),
    "no_beginning": Event(
        "info", "A connection was cut before its first word: TLS, or a proxy's header, did not come about."
    ),
    "request_failed": Event("error", "A request over HTTP met a mistake of ours, and was answered 500."),
    "certificate_unusable": Event(
        "error", "The certificate cannot be used: TLS is not offered, and no connection to a TLS port begins."
    ),
    "denied": Event("info", "A client was turned away: a connection, a sender, a recipient or a message."),
    "disk_level": Event("warning", "The disk has passed a limit of free space, or is well again."),
    "start_fault": Event(
        "error",
        "This start cannot be noted on the disk, so a power cut would not be noticed; it is tried again.",
    ),
    # the logs
    "history_fault": Event(
        "error", "History cannot be written, or looks damaged; it is tried again, and nothing else stops."
    ),
    "log_recovered": Event("info", "A log was read after a start: what it held, what of it was cut."),
    "log_damaged": Event(
        "error", "Part of a log could not be read after a start; its bytes are kept beside it as .damaged."
    ),
    "mark_disbelieved": Event(
        "error", "A log's durable mark says what cannot be; the log goes on from its true end."
    ),
    "log_fault": Event(
        "error", "A log cannot be written, or not read; what waits for it is refused or tried again."
    ),
    "log_well": Event("info", "A log that could not be written or read works again."),
    "log_upkeep_fault": Event(
        "warning", "Files of a log cannot be recycled or prepared; it goes on, with less room on the disk."
    ),
    "content_not_removed": Event(
        "warning", "Content files that nobody needs could not be removed; a later start removes them."
    ),
    "mail_corrupt": Event("error", "Part of the mail log is damaged and was set aside."),
    "content_unreadable": Event(
        "error",
        "The file of a large message cannot be read; its deliveries wait, or are set aside where it is lost.",
    ),
    "mail_missing": Event(
        "error", "Acknowledged mail is gone from the mail log before it was taken up: files were removed."
    ),
    "mail_unreadable": Event("error", "A record of the mail log is no message this version can read."),
    "ledger_incomplete": Event(
        "error",
        "The ledger cannot be followed from its checkpoint; what it does not account for is searched for in"
        " the mail log, and is uncertain.",
    ),
    "ledger_corrupt": Event("error", "Part of the ledger is damaged and was passed over."),
    # queue
    "queue_recovered": Event("info", "The queue was put together after a start."),
    "queue_fault": Event("error", "The parked store failed; it is tried again."),
    "relay_missing": Event("warning", "Mail waits for a relay that is configured no more."),
    "no_relay": Event("warning", "No relay is configured: mail is captured, nothing leaves this machine."),
    "relay_disabled": Event("warning", "The default relay is disabled: its mail is held."),
    "rule_holds": Event("warning", "No relay of a routing rule is enabled: its mail is held."),
    "intake_closed": Event(
        "warning", "An operator drains the relay: no mail is taken, until `dispatch queue accept`."
    ),
    "intake_opened": Event("info", "Mail is taken again."),
    "suppressions_changed": Event("info", "Addresses were put on the suppression list, or taken off it."),
    "suppressions_unreadable": Event(
        "error",
        "A process cannot read the suppression list; it goes on with what it has, which may be none.",
    ),
    "pin_holds": Event(
        "warning",
        "The relay that mail must take, by its login or by its own word, cannot be used: it is held.",
    ),
    "breaker_opened": Event("warning", "A relay failed too often; its mail waits."),
    "breaker_closed": Event("info", "A relay works again."),
    "token_fetched": Event("debug", "A relay has a new access token."),
    "token_refused": Event(
        "error",
        "A relay gets no access token, or the host refuses it: its mail waits, or will once the token in hand"
        " has ended (valid_s). Somebody must look at the account; why is told.",
    ),
    "token_unavailable": Event(
        "warning", "The server that gives access tokens cannot be used now; it is asked again."
    ),
    "token_rotated": Event(
        "info",
        "The server has replaced the refresh token of a relay; the new one is used, and kept sealed in"
        " settings.db. Told once, however often that server does it.",
    ),
    "token_not_kept": Event(
        "error",
        "A refresh token in place of the configured one could not be kept, or not be read at a start; why is"
        " told. Keeping is tried again; a start without it uses the one before, which the server may refuse.",
    ),
    "queue_paused": Event(
        "warning",
        "An operator has paused a relay, or the whole queue: nothing of it starts until it is resumed.",
    ),
    "queue_resumed": Event("info", "A pause was taken back."),
    "message_quarantined": Event(
        "error",
        "A message is set aside until a person looks: it was in hand each time the process died, or its"
        " content is lost.",
    ),
    "clock_jumped": Event("warning", "The wall clock jumped; due times were set right."),
    # outcomes
    "delivered": Event("info", "A recipient's final outcome: accepted by the relay, or captured."),
    "retrying": Event("info", "A recipient's attempt failed and will be repeated."),
    "failed": Event("warning", "A recipient's final outcome: bounced, expired or given up."),
    "ended": Event("info", "A recipient's final outcome: cancelled, discarded or suppressed."),
    "dsn_sent": Event("info", "A sender was told what became of a message (RFC 3464)."),
    "dsn_put_off": Event("warning", "A sender cannot be told for now; it is tried again."),
    "dsn_given_up": Event("error", "A sender cannot be told what became of a message: why is told."),
    "uncertain": Event(
        "warning",
        "It may have been delivered: no reply came after the end of data, or the machine lost power.",
    ),
}


def render_events() -> str:
    """The manual's page."""
    rows = [f"| `{name}` | {event.level} | {event.meaning} |" for name, event in EVENTS.items()]
    return "\n".join(
        [
            "# Log events",
            "",
            "Every line of the log is one event; its name is stable, so it can be searched and alerted on.",
            "`logging.level` says which are written, `logging.format` how. Made from the program.",
            "",
            "| event | level | what happened |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
