"""Settings: one typed model, the sources that fill it, and what the processes are told of it.

- `model`     every key: type, default, limits, meaning, who needs it, live or restart
- `rule_keys`, `relay_keys`, `login_keys` the same for rules, relays, logins
- `api_keys`  the same for HTTP, and for the keys of programs
- `mail_keys` the same for a host's own mail
- `quantities` kinds that several sections share
- `presets`   providers whose SMTP hosts are known
- `sending_keys` what a relay does to a message and when it sends: keys of a relay, too
- `deployment` a relay from a handful of variables
- `relay_checks` what is wrong with the keys of a relay beside one another
- `keys`      what is known about a key besides its value; the catalogue
- `kinds`     how values of a kind are read and described
- `sources`   the file, the environment, the command line, the database, not yet checked
- `loading`   sources to settings, or to every mistake at once
- `mistakes`  what is wrong, where, and what to do about it
- `changes`   the difference between two settings, and what of it needs a restart
- `rules`     the rules, compiled for routing
- `snapshot`  numbered snapshots on disk, each process told only what it may know
- `renewed_tokens` refresh tokens that servers replaced, beside the snapshots
- `requests`  what control is asked about settings, and answers
- `reference` the page of the manual

Nobody else reads a file or a variable for a setting, and nobody keeps settings in a global: they are
handed down from where they were loaded.
"""

from dispatch.settings.changes import changes, values_of
from dispatch.settings.keys import Role
from dispatch.settings.loading import Loaded, data_directory, load
from dispatch.settings.mistakes import Mistake, Origin, SettingsErrors, SettingsUnreadable
from dispatch.settings.model import Settings
from dispatch.settings.relay_keys import Relay
from dispatch.settings.rule_keys import Rule
from dispatch.settings.rules import intake_router, router

__all__ = [
    "Loaded",
    "Mistake",
    "Origin",
    "Relay",
    "Role",
    "Rule",
    "Settings",
    "SettingsErrors",
    "SettingsUnreadable",
    "changes",
    "data_directory",
    "intake_router",
    "load",
    "router",
    "values_of",
]
