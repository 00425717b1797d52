"""`dispatch relay`: next hops that are configured by command."""

from __future__ import annotations

from dispatch.cli.entries import add_common_verbs, add_writing_verbs
from dispatch.cli.options import new_group
from dispatch.settings.model import RELAYS

app = new_group("Add, change, list and remove relays.")
add_writing_verbs(app, RELAYS)
add_common_verbs(app, RELAYS)
