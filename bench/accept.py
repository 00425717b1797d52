"""Accepting alone: how fast mail is taken and made durable while none of it leaves.

Each relay keeps it in the way that costs it least. Postfix is told HOLD for every client: its cleanup writes
the file into the hold queue, and the queue manager never sees it. Dispatch's relay is switched off: what it
accepts is parked, which means written a second time, with its record in the ledger. So this favours Postfix.
The rate is that of the clients' replies; CPU counts until each is at rest.
"""

from __future__ import annotations

from bench.contestants import free_port, running
from bench.disks import journaled
from bench.dispatch_relay import Dispatch
from bench.load import Load
from bench.parts import Effort, Rivals, in_turns
from bench.postfix_relay import Postfix
from bench.report import disturbance, pairs_table, paragraphs

LOADS = (Load(1, 4 << 10), Load(20, 4 << 10), Load(100, 4 << 10))


def measure(effort: Effort) -> str:
    with journaled(effort.parent) as disk:
        nobody = free_port()
        ours = Dispatch(disk.folder, nobody, options=["relays.upstream.enabled=false"])
        hold = {"smtpd_client_restrictions": "check_client_access static:hold"}
        theirs = Postfix(disk.folder, nobody, settings=hold)
        with running(ours, theirs):
            taken = in_turns(Rivals(ours, theirs, None), LOADS, effort)
        where = f"On {disk}."
    return paragraphs(where, pairs_table("accepted only", taken), disturbance(taken.values()))
