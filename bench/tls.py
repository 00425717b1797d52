"""From a client through the relay to an upstream, by STARTTLS in and out: Dispatch beside Postfix.

Both show a certificate with an ECDSA P-256 key, speak TLS 1.3 with the same cipher, and verify nobody: each
takes TLS where it is offered. So the same two relays are measured in clear as well, which shows what TLS
costs each of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from bench.disks import journaled
from bench.load import Round
from bench.parts import MAIN_LOAD, Effort, in_turns, rivals
from bench.report import Pair, disturbance, pairs_table, paragraphs, table
from bench.tunnel import certificate

NOT_KEPT = MAIN_LOAD._replace(kept=False)
LOADS = tuple(load._replace(secured=secured) for load in (MAIN_LOAD, NOT_KEPT) for secured in (False, True))
OPTIONS = ("relays.upstream.tls=auto",)


def measure(effort: Effort) -> str:
    with journaled(effort.parent) as disk:
        settings = {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": str(certificate(disk.folder)),
            "smtp_tls_security_level": "may",
            # Without it, Postfix keeps no connection that has TLS.
            "smtp_tls_connection_reuse": "yes",
            # By TLS a delivery waits more than it works: 8 at once gave 110/s, 50 three times that.
            "initial_destination_concurrency": "50",
            "default_destination_concurrency_limit": "50",
            # Debian's default.
            "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
        }
        with rivals(disk, options=OPTIONS, settings=settings) as pair:
            taken = in_turns(pair, LOADS, effort)
        where = f"On {disk}."
    return paragraphs(where, pairs_table("load", taken), _price(taken), disturbance(taken.values()))


def _price(taken: dict[str, Pair]) -> str:
    """How many times the CPU of the same load in clear."""
    rows = []
    for load in (MAIN_LOAD, NOT_KEPT):
        clear, secured = taken[str(load)], taken[str(load._replace(secured=True))]
        rows.append([str(load), _times(clear.ours, secured.ours), _times(clear.theirs, secured.theirs)])
    return table(["CPU with TLS", "Dispatch", "Postfix"], rows)


def _times(clear: Sequence[Round], secured: Sequence[Round]) -> str:
    more, less = (statistics.median(each.cpu_s for each in rounds) for rounds in (secured, clear))
    return f"{more / less:.1f} times that in clear"
