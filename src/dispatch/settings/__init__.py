"""Settings: one typed model, the sources that fill it, and what the processes are told of it.

- `model`     every key: type, default, limits, meaning, who needs it, live or restart
- `keys`      what is known about a key besides its value; the catalogue
- `kinds`     how values of a kind are read and described
- `sources`   the file, the environment, the command line, not yet checked
- `loading`   sources to settings, or to every mistake at once
- `mistakes`  what is wrong, where, and what to do about it
- `changes`   the difference between two settings, and what of it needs a restart
- `rules`     the rules, compiled for routing
- `snapshot`  numbered snapshots on disk, each process told only what it may know
- `reference` the page of the manual

Nobody else reads a file or a variable for a setting, and nobody keeps settings in a global: they are
handed down from where they were loaded.
"""

from dispatch.settings.changes import changes, values_of
from dispatch.settings.keys import Role
from dispatch.settings.loading import Loaded, load
from dispatch.settings.mistakes import Mistake, Origin, SettingsErrors, SettingsUnreadable
from dispatch.settings.model import Relay, Rule, Settings
from dispatch.settings.rules import router

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
    "load",
    "router",
    "values_of",
]
