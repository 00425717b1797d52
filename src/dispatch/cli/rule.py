"""`dispatch rule`: routing rules that are configured by command."""

from __future__ import annotations

from dispatch.cli.entries import add_common_verbs, add_writing_verbs
from dispatch.cli.options import new_group
from dispatch.settings.model import RULES

app = new_group("Add, change, list and remove routing rules.")
add_writing_verbs(app, RULES)
add_common_verbs(app, RULES)
