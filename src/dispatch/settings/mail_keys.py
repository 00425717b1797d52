"""The keys of a host's own mail: what its bare addresses are completed to, who its local names are."""

from __future__ import annotations

from typing import Annotated

from dispatch.settings import kinds
from dispatch.settings.keys import Section, live
from dispatch.settings.kinds import Text
from dispatch.settings.quantities import HOST_NAME

_DOMAIN_OR_NONE = Text(
    "domain", f"({HOST_NAME})?", "letters, digits, hyphens and dots, like example.org; empty: none"
)


class Mail(Section, frozen=True, kw_only=True):
    """What programs of a host write to `root` and as `www-data`: its own mail, which nobody out of doors
    could answer. Recipients are read by it, and the reverse-path; header fields stay as they were written."""

    append_domain: Annotated[
        str,
        live(
            "intake delivery",
            _DOMAIN_OR_NONE,
            """The domain that completes addresses without one: senders, and recipients that no alias
            names; and those of the header, for relays that are not verbatim. It stands in for localhost,
            too.""",
            default_words="none: bare addresses stay bare",
        ),
    ] = ""
    aliases: Annotated[
        tuple[str, ...],
        live(
            "intake",
            kinds.Aliases(),
            """Who local names are: recipients without a domain, or at localhost, at listener.server_name or
            at mail.append_domain. A target with a domain is final, one without is looked for again. Upper and
            lower case are the same, and root+cron is root unless it has an alias of its own. Without an alias
            of its own postmaster is root, and MAILER-DAEMON is postmaster. A line of text has the form of
            /etc/aliases: several go with line breaks or semicolons between them.""",
            default_words="none",
        ),
    ] = ()
