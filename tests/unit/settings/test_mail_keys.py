"""How local names are written, in each place where settings are."""

from __future__ import annotations

from pathlib import Path

import pytest

from dispatch.settings import Settings, SettingsErrors, load

ALIASES = ("root: ops@example.org, bob", "bob: bob@example.net")


def from_file(folder: Path, text: str) -> Settings:
    path = folder / "dispatch.toml"
    path.write_text(text)
    return load(path, {}).settings


@pytest.mark.parametrize(
    "text",
    [
        '[mail.aliases]\nRoot = ["ops@example.org", "bob"]\nbob = "bob@example.net"\n',
        '[mail]\naliases = { root = "ops@example.org, bob", bob = "bob@example.net" }\n',
        '[mail]\naliases = ["root: ops@example.org, bob", "bob: bob@example.net"]\n',
        '[mail]\naliases = """\n# as ever\nroot: ops@example.org,bob\n\nbob: bob@example.net\n"""\n',
    ],
)
def test_the_file_has_a_table_a_list_or_lines(tmp_path: Path, text: str) -> None:
    assert from_file(tmp_path, text).mail.aliases == ALIASES


@pytest.mark.parametrize(
    "text",
    [
        "root: ops@example.org, bob; bob: bob@example.net",
        "root: ops@example.org, bob\nbob: bob@example.net\n",
        '["root: ops@example.org, bob", "bob: bob@example.net"]',
    ],
)
def test_text_has_lines_or_a_list(tmp_path: Path, text: str) -> None:
    nowhere = tmp_path / "none.toml"
    variables = {"DISPATCH_MAIL__ALIASES": text, "DISPATCH_MAIL__APPEND_DOMAIN": "example.org"}
    loaded = load(None, variables, default_file=nowhere).settings.mail
    assert (loaded.aliases, loaded.append_domain) == (ALIASES, "example.org")
    given = [f"mail.aliases={text}", "mail.append_domain="]
    loaded = load(None, {}, given, default_file=nowhere).settings.mail
    assert (loaded.aliases, loaded.append_domain) == (ALIASES, "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[mail.aliases]\nroot = "a b"\n', "mail.aliases.root: a b is no address"),
        ("[mail.aliases]\nroot = 5\n", "mail.aliases.root: 5 is no address"),
        ('[mail.aliases]\nroot = "|program"\n', "programs, files and lists"),
        ('[mail.aliases]\na = "b"\nb = "a"\n', "aliases go in a circle, a to b to a"),
        ('[mail]\naliases = ["root: a@b.c", "Root: d@e.f"]\n', "root stands there twice"),
        ('[mail]\naliases = ["root"]\n', "mail.aliases[0]: is no alias"),
        ("[mail]\naliases = 5\n", "5 is no table of local names"),
        ('[mail]\nappend_domain = "a b"\n', "is no domain"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsErrors) as refused:
        from_file(tmp_path, text)
    (mistake,) = refused.value.mistakes
    assert said in str(mistake) or said.replace("a to b to a", "b to a to b") in str(mistake)
    assert "dispatch.toml:" in str(mistake)
