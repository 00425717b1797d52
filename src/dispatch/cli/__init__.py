"""The command line: one file a verb, imported when the verb is used and not before.

`dispatch --help` and every verb pay only for what they need; a start of the relay's own processes must
not wait for a table renderer. So this module imports nothing of the product, and the one-line help of each
verb stands here, in the registry. A verb's module has an `app`, a `typer.Typer`, that `verbs` calls;
`sendmail`, which is started for each message, does without.

Exit codes are those of sysexits (`os.EX_*`): 0 done, 64 called wrongly, 74 a file cannot be read or written
just now, 77 not this user's data, 78 the settings have mistakes. The handbook has all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    name: str
    help: str
    module: str


VERBS = (
    Verb("serve", "Run the relay: accept mail, keep it safe, deliver it.", "dispatch.cli.serve"),
    Verb("queue", "See what waits and why; retry, hold, release or cancel it.", "dispatch.cli.queue"),
    Verb("history", "What became of each message.", "dispatch.cli.history"),
    Verb("stats", "Counts of today, by relay.", "dispatch.cli.stats"),
    Verb("inbox", "Mail that was captured instead of sent.", "dispatch.cli.inbox"),
    Verb(
        "sendmail", "Submit a message as sendmail does: for cron, PHP and scripts.", "dispatch.cli.sendmail"
    ),
    Verb("send", "Compose a message and send it: text, HTML, files.", "dispatch.cli.send"),
    Verb("spool", "Verify the logs on disk, or export the mail in them.", "dispatch.cli.spool"),
    Verb("ledger", "Prove that nothing was lost.", "dispatch.cli.ledger"),
    Verb("route", "See which relay would take a message, and why.", "dispatch.cli.route"),
    Verb("login", "Who may submit mail with a password.", "dispatch.cli.login"),
    Verb("key", "The keys of programs that submit mail over HTTP.", "dispatch.cli.key"),
    Verb("relay", "Add, change, list and remove relays.", "dispatch.cli.relay"),
    Verb("rule", "Add, change, list and remove routing rules.", "dispatch.cli.rule"),
    Verb("suppression", "Addresses that no mail is sent to.", "dispatch.cli.suppression"),
    Verb("cert", "The certificate that TLS shows to clients.", "dispatch.cli.cert"),
    Verb("dkim", "The keys that sign mail, and their DNS records.", "dispatch.cli.dkim"),
    Verb("vault", "The key under which all secrets are sealed.", "dispatch.cli.vault"),
    Verb("config", "Check, list and explain the settings.", "dispatch.cli.config"),
)
"""In the order of `dispatch --help`. A new verb is a line here and its file."""


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code."""
    if arguments and arguments[0] == "sendmail":
        from dispatch.cli import sendmail

        return sendmail.run(arguments[1:])
    from dispatch.cli.verbs import run_verb

    return run_verb(arguments)


def main() -> None:
    """The console script; by another name it is the program of that name (`ln -s … /usr/sbin/sendmail`)."""
    program = sys.argv[0].rpartition("/")[2]
    if program in ("sendmail", "mailq", "newaliases"):
        from dispatch.cli import sendmail

        sys.exit(sendmail.run(sys.argv[1:], program))
    sys.exit(run(sys.argv[1:]))
