"""The reference page of the manual: every key, from the model and nothing else.

`docs/reference/settings.md` is this text, kept in the repository so that it can be read there; a test
fails when the two differ (`make reference` writes it).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from dispatch.settings.keys import Entry
from dispatch.settings.model import KEYS, REPEATED, SECTIONS

_OPENING = """\
# Settings

Every key, made from the program itself by `dispatch config reference`. A key is set in the file
(`/etc/dispatch/dispatch.toml`, or the one that `--config` names), in the environment, or with `--set`;
the strongest of these counts: `--set`, then environment, then file, then the default.

```toml
[listener]
ports = [25, 587]
allowed_cidrs = ["192.0.2.0/24", "2001:db8::/32"]

[[relays]]
name = "smarthost"
host = "smtp.example.org"

[[rules]]
name = "newsletter"
sender = "news-*@example.org"
relays = ["smarthost"]
```

As an environment variable a list is written with commas: `DISPATCH_LISTENER__PORTS=25,587`. A variable
that begins with `DISPATCH_` and is no setting is ignored with a warning; an unknown key is an error.
`dispatch config check` reports every mistake at once, `dispatch config list` shows every value with its
origin, and `dispatch config explain KEY` shows what stands here together with the value in force.

Sizes in `_mb` are MiB (1,048,576 bytes). `"none"` is unlimited.
"""


def reference_page() -> str:
    """The whole page in Markdown."""
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    yield _OPENING
    for name, model in SECTIONS.items():
        yield f"## {name}" + (f": one table for each {REPEATED[name]}\n" if name in REPEATED else "\n")
        yield inspect.cleandoc(model.__doc__ or "") + "\n"
        for entry in KEYS[name].values():
            yield from _key(entry)


def _key(entry: Entry) -> Iterator[str]:
    key = entry.key
    yield f"### {entry.path}\n"
    yield f"{key.help}\n"
    yield f"- Type: {key.kind.type_name}" + (f" ({key.kind.limits})" if key.kind.limits else "")
    yield f"- Default: {entry.default_text if entry.default_in_words else f'`{entry.default_text}`'}"
    yield (
        f"- Environment: `{entry.variable}`"
        if entry.name != "name"
        else "- Environment: the `<NAME>` of any other key"
    )
    yield f"- A change takes effect: {'at once' if key.live else 'with the next start'}"
    if key.secret:
        yield "- Secret: shown nowhere"
    yield ""
