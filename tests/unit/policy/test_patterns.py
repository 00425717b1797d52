"""What a pattern matches, and what is no pattern."""

from __future__ import annotations

import pytest

from dispatch.policy.patterns import (
    NoPattern,
    glob,
    parse_pattern,
    plain_address,
    split_patterns,
)


def matches(pattern: str, address: str) -> bool:
    return parse_pattern(pattern).matches(*plain_address(address))


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        (
            "a@example.org",
            ["a@example.org", "a@EXAMPLE.org", '"a"@example.org', r'"\a"@example.org'],
            ["A@example.org", "b@example.org", "a@sub.example.org", "a"],
        ),
        ("a@Example.ORG", ["a@example.org"], ["A@example.org"]),
        ('"a b,c"@example.org', ['"a b,c"@example.org', r'"a\ b,c"@example.org'], ["a@example.org"]),
        ('"a"@example.org', ["a@example.org"], []),
        ('"*"@example.org', ['"*"@example.org', "*@example.org"], ["a@example.org"]),
        ('"a@b"@example.org', ['"a@b"@example.org'], ["a@b", "b@example.org"]),
        (
            "example.org",
            ["a@example.org", "A@Example.Org"],
            ["a@x.example.org", "a@example.orgs", "example.org"],
        ),
        ("*@example.org", ["a@example.org"], ["a@x.example.org", ""]),
        ("*.example.org", ["a@x.example.org", "a@x.y.Example.org"], ["a@example.org", "a@xexample.org"]),
        ("a@*.example.org", ["a@x.example.org"], ["b@x.example.org", "a@example.org"]),
        (
            "news-*@example.org",
            ["news-1@example.org", "news-@EXAMPLE.org"],
            ["News-1@example.org", "news@example.org"],
        ),
        ("n?ws@example.org", ["news@example.org"], ["nws@example.org", "neews@example.org"]),
        ("*@mail*.example.org", ["a@mail.example.org", "a@mail1.x.example.org"], ["a@example.org"]),
        ("mail-?.example.org", ["a@mail-1.example.org"], ["a@mail-11.example.org"]),
        ("a@*", ["a@example.org", "a"], ["b@example.org", ""]),
        ("*", ["a@example.org", "a", ""], []),
        ("<>", [""], ["a@example.org", "a"]),
        (
            "bücher.example",
            ["a@xn--bcher-kva.example", "a@BÜCHER.example", "a@bu\u0308cher.example"],
            ["a@bucher.example"],
        ),
        ("XN--bcher-kva.example", ["a@bücher.example"], ["a@xn--bcher.example"]),
        ("straße.example", ["a@xn--strae-oqa.example"], ["a@strasse.example"]),
        ("*.bücher.example", ["a@x.xn--bcher-kva.example"], ["a@bücher.example"]),
        ("xn--99999999999.example", ["a@xn--99999999999.example"], ["a@example"]),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"], ["a@192.0.2.1", "b@[192.0.2.1]"]),
        ("[IPv6:2001:DB8::1]", ["a@[ipv6:2001:db8::1]"], ["a@[IPv6:2001:db8::2]"]),
    ],
)
def test_a_pattern_matches_these_addresses_and_no_others(
    pattern: str, matching: list[str], others: list[str]
) -> None:
    assert [address for address in matching if not matches(pattern, address)] == []
    assert [address for address in others if matches(pattern, address)] == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "@",
        "@example.org",
        "a@",
        ".example.org",
        "a b",
        "a@b@c",
        "a@b c",
        "ex ample.org",
        "<a@b>",
        "a,b",
        '"a@example.org',
        "example..org",
        "*.",
        "[192.0.2.300]",
        "@a,@b:c@d",
        "a@exa\nmple.org",
        "<",
        "*@",
        "x\x00",
    ],
)
def test_what_no_address_could_match_is_no_pattern(text: str) -> None:
    with pytest.raises(NoPattern, match="write"):
        parse_pattern(text)


def test_the_narrower_pattern_is_the_more_specific_one() -> None:
    narrowing = [
        "*",
        "n-*@*",
        "a@*",
        "*.or?",
        "a@*.or?",
        "*.org",
        "a@*.org",
        "*.example.org",
        "*.a.example.org",
        "n-*@*.a.example.org",
        "a.example.org",
        "n-*@a.example.org",
        "n@a.example.org",
    ]
    widths = [parse_pattern(text).specificity for text in narrowing]
    assert widths == sorted(set(widths))


def test_a_comma_within_quotes_divides_nothing() -> None:
    assert split_patterns('a@b , "x,y"@b,c.d,, "x\\",y"@e') == ["a@b", '"x,y"@b', "c.d", '"x\\",y"@e']
    assert split_patterns(" , ") == []
    assert split_patterns('"open,a@b') == ['"open', "a@b"], "an open quote is no quote"


def test_a_glob_does_not_backtrack() -> None:
    """Backtracking, this would take longer than the test may."""
    assert not glob("*a" * 30 + "*b").fullmatch("a" * 2000)
    assert glob("*a" * 30 + "*b").fullmatch("a" * 2000 + "b")
