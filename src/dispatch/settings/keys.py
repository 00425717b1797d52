"""What is known about a key besides its value, and the catalogue of all keys.

A section of the model is a struct; each of its fields carries a `Key` in its annotation. The catalogue
is read off the structs, so a key cannot exist without a kind, a help text, and an answer to who needs
it and when a change takes effect.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import msgspec

from dispatch.settings.kinds import Kind, shown

Role = Literal["supervisor", "intake", "delivery", "control"]
ROLES: tuple[Role, ...] = typing.get_args(Role)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One key, as the model declares it."""

    kind: Kind
    help: str
    """Sentences for the operator, in plain text."""
    roles: frozenset[Role]
    """The processes that need it; no other one is told."""
    live: bool
    """A change takes effect at once; otherwise with the next start."""
    secret: bool = False
    """Shown nowhere, masked everywhere."""
    inherits: str = ""
    """The key whose value stands in where this one is not given."""
    default_words: str = ""
    """Where the default cannot be written down: what it is."""
    required: bool = False


def live(roles: str, kind: Kind, help_text: str, **more: typing.Unpack[_More]) -> Key:
    """A key whose change takes effect at once, in the processes that `roles` names."""
    return Key(kind=kind, help=_flowed(help_text), roles=_roles(roles), live=True, **more)


def restart(roles: str, kind: Kind, help_text: str, **more: typing.Unpack[_More]) -> Key:
    """A key whose change takes effect with the next start."""
    return Key(kind=kind, help=_flowed(help_text), roles=_roles(roles), live=False, **more)


class _More(typing.TypedDict, total=False):
    secret: bool
    inherits: str
    default_words: str
    required: bool


def _flowed(text: str) -> str:
    return " ".join(text.split())


def _roles(words: str) -> frozenset[Role]:
    """Control shows every setting, so it is always told."""
    chosen = frozenset(role for role in ROLES if role in words.split())
    assert len(chosen) == len(words.split()), f"unknown role in {words!r}"
    return chosen | {"control"}


class _Withheld:
    """Stands where a process may not know the value: whoever uses it there has found a bug, at once."""

    __slots__ = ()
    __hash__ = None  # type: ignore[assignment]  # Python's own way to say so; typeshed has no word for it

    def __eq__(self, other: object) -> bool:
        return other is self or self._refuse()

    def __repr__(self) -> str:
        return "<withheld>"

    def _refuse(self) -> typing.NoReturn:
        raise AssertionError("this process is not told that setting; its roles in the model say who is")

    def __getattr__(self, name: str) -> typing.NoReturn:
        self._refuse()

    __bool__ = __iter__ = __len__ = _refuse


WITHHELD: object = _Withheld()


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A table of the file; its docstring opens its chapter of the manual."""

    def __rich_repr__(self) -> list[tuple[str, object]]:
        """Without its secrets: what is printed by mistake gives nothing away."""
        secret = _secret_names(type(self))
        return [(name, "***" if name in secret else getattr(self, name)) for name in self.__struct_fields__]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({fields})"


@lru_cache
def _secret_names(model: type[Section]) -> frozenset[str]:
    return frozenset(entry.name for entry in _read_off("", model, False) if entry.key.secret)


class Entry(msgspec.Struct, frozen=True):
    """One key in its place."""

    section: str
    name: str
    key: Key
    default: object
    repeated: bool
    """It belongs to a table of which there may be any number, each with a name."""

    @property
    def path(self) -> str:
        """`listener.ports`; `relays.NAME.port` where the table is one of several."""
        return f"{self.section}.NAME.{self.name}" if self.repeated else f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return "DISPATCH_" + self.path.upper().replace(".", "__").replace("__NAME__", "__<NAME>__")

    @property
    def default_in_words(self) -> bool:
        """The default is described, not written down."""
        return self.key.required or bool(self.key.default_words or self.key.inherits)

    @property
    def default_text(self) -> str:
        """The default as it would be written in the file, or in words."""
        if self.key.required:
            return "none, it must be given"
        if self.key.inherits:
            return f"the value of {self.key.inherits}"
        return self.key.default_words or shown(self.default)


def entries_of(section: str, model: type[Section], *, repeated: bool = False) -> dict[str, Entry]:
    """The keys of one section by their names, in the order of the manual."""
    return {entry.name: entry for entry in _read_off(section, model, repeated)}


def _read_off(section: str, model: type[Section], repeated: bool) -> Iterator[Entry]:
    hints = typing.get_type_hints(model, include_extras=True)
    own = model.__annotations__
    # What a section has from a part that stands in another file comes behind its own.
    for field in sorted(msgspec.structs.fields(model), key=lambda field: field.name not in own):
        key = next((m for m in getattr(hints[field.name], "__metadata__", ()) if isinstance(m, Key)), None)
        assert key is not None, f"{section}.{field.name} is declared without a Key"
        yield Entry(section, field.name, key, field.default, repeated)
