"""Writes the table of `docs/develop/smuggling.md`: what the relay and Postfix make of each smuggling variant.

`python -m scripts.smuggling_table`, as root on Debian with its postfix installed (an instance of its own is
started, as for the benchmarks). Every variant is sent in one piece and octet by octet; where the two were
answered differently, the table has both. A minute or two.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.contestants import wait_until
from bench.postfix_relay import PROGRAMS, Postfix
from tests.scenarios.exact_upstream import ExactUpstream
from tests.scenarios.relay import Relay
from tests.scenarios.smuggling import (
    MODES,
    REFUSED_DATA,
    SMUGGLED,
    VARIANTS,
    Variant,
    accepted,
    attack,
    executed,
    recipient_of,
)

import dispatch

PAGE = Path(__file__).parents[1] / "docs/develop/smuggling.md"
_BEGIN, _END = "<!-- The table is made by scripts/smuggling_table.py. -->\n", "<!-- -->\n"
CUTS = ("whole", "octets")
TRIED = (*VARIANTS, *REFUSED_DATA)
POSTFIX: dict[str, dict[str, str]] = {
    "as installed": {},
    "`normalize`": {"smtpd_forbid_bare_newline": "normalize", "smtpd_forbid_bare_newline_exclusions": ""},
    "`reject`": {"smtpd_forbid_bare_newline": "reject", "smtpd_forbid_bare_newline_exclusions": ""},
}
AT_ONCE_AT_POSTFIX = 20
_OCTETS_SHOWN = 24
SETTLE_S = 60.0


class Shown(NamedTuple):
    """Of one server in one setting."""

    answers: dict[str, str]
    """By variant."""
    left: dict[str, bytes]
    """What stood between the head and the smuggled commands in what it sent on, by variant."""
    ambiguous: int
    """Messages that it sent on in a form which another host could take for something else."""
    sent: int


def _answer(replies: tuple[bytes, ...]) -> str:
    count = accepted(replies)
    if executed(replies):
        return f"**{count} messages**" if count > 1 else "**another message**" if count else "**executed**"
    if count:
        return "1 message"
    codes = [line[:3].decode() for line in replies if line[:1] in (b"4", b"5")]
    return codes[0] if codes else "cut"


def _left(raw: bytes) -> bytes:
    before, found, _ = raw.rpartition(SMUGGLED)
    match = re.search(rb"(?s).*(?:first|x|\.test>\r\n)(.*)\Z", before)
    return match[1] if found and match else b""


def _shown(port: int, upstream: ExactUpstream, at_once: int) -> Shown:
    answers: dict[str, list[str]] = {variant.name: [] for variant in TRIED}
    expected = 0
    for cut in CUTS:
        told = attack(port, TRIED, cut, at_once)
        expected += sum(map(accepted, told.values()))
        for name, replies in told.items():
            answer = _answer(replies)
            if answer not in answers[name]:
                answers[name].append(answer)

    def arrived() -> bool:
        return len(upstream.taken) >= expected

    wait_until(arrived, "what was accepted has left", bound_s=SETTLE_S)
    left = {
        variant.name: _left(each.raw)
        for number, variant in enumerate(TRIED)
        for each in upstream.taken
        if recipient_of(number) in each.recipients
    }
    ambiguous = sum(bool(each.faults()) for each in upstream.taken)
    return Shown(
        {name: ", octet by octet ".join(said) for name, said in answers.items()},
        left,
        ambiguous,
        len(upstream.taken),
    )


def _of_relay(folder: Path, mode: str) -> Shown:
    upstream = ExactUpstream()
    relay = Relay(folder / mode)
    many = {"max_connections": 10_000, "max_connections_per_ip": 10_000}
    try:
        relay.configure(upstream.table(), listener={"bare_newline": mode, **many}).start()
        return _shown(relay.port, upstream, len(TRIED))
    finally:
        relay.kill()
        upstream.close()


def _of_postfix(folder: Path, settings: Mapping[str, str]) -> Shown:
    folder.mkdir()
    upstream = ExactUpstream()
    postfix = Postfix(folder, upstream.port, settings=settings)
    postfix.start()
    try:
        return _shown(postfix.port, upstream, AT_ONCE_AT_POSTFIX)
    finally:
        postfix.stop()
        upstream.close()


def _octets(octets: bytes) -> str:
    text = repr(octets[:_OCTETS_SHOWN])[2:-1].replace("|", "\\|")
    return f"`{text}`" + (" …" if len(octets) > _OCTETS_SHOWN else "")


def _rows(ours: Mapping[str, Shown], postfix: Mapping[str, Shown]) -> Iterator[str]:
    head = [
        "variant",
        "octets",
        *(f"`{mode}`" for mode in ours),
        "what left",
        *(f"Postfix {k}" for k in postfix),
    ]
    group = ""
    for variant in TRIED:
        if variant.group != group:
            group = variant.group
            yield f"\n### {group[0].upper()}{group[1:]}\n"
            yield "| " + " | ".join(head) + " |"
            yield "|---" * len(head) + "|"
        left = {shown.left[variant.name] for shown in ours.values() if variant.name in shown.left}
        cells = [
            variant.name,
            _octets(_disputed(variant)),
            *(shown.answers[variant.name] for shown in ours.values()),
            " or ".join(map(_octets, sorted(left))) or "nothing",
            *(shown.answers[variant.name] for shown in postfix.values()),
        ]
        yield "| " + " | ".join(cells) + " |"


def _disputed(variant: Variant) -> bytes:
    start, end = variant.place
    # Where nothing may be taken, the first line is what it is about.
    return variant.stream[start if any(variant.taken.values()) else 0 : end]


def _summary(ours: Mapping[str, Shown], postfix: Mapping[str, Shown]) -> Iterator[str]:
    yield "| | one message | refused | more, or another one | sent on ambiguously |"
    yield "|---|---|---|---|---|"
    names = {f"Dispatch, `{mode}`": shown for mode, shown in ours.items()}
    for name, shown in {**names, **{f"Postfix, {key}": shown for key, shown in postfix.items()}}.items():
        said = list(shown.answers.values())
        smuggled = sum("**" in each for each in said)
        one = sum(each == "1 message" for each in said)
        yield (
            f"| {name} | {one} | {len(said) - one - smuggled} | {smuggled} | "
            f"{shown.ambiguous} of {shown.sent} messages |"
        )


def main() -> int:
    if not (PROGRAMS / "postfix").exists():
        print("Postfix is not installed: there is nothing to compare with.", file=sys.stderr)
        return 1
    version = subprocess.run(
        [str(PROGRAMS / "postconf"), "-h", "mail_version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        ours = {mode: _of_relay(folder, mode) for mode in MODES}
        postfix = {
            key: _of_postfix(folder / f"postfix-{number}", settings)
            for number, (key, settings) in enumerate(POSTFIX.items())
        }
    lines = [
        f"Dispatch {dispatch.__version__}, Postfix {version}, {datetime.now(UTC):%Y-%m-%d};"
        f" {len(TRIED)} variants, each sent twice.",
        "",
        *_summary(ours, postfix),
        *_rows(ours, postfix),
    ]
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    behind = rest.partition(_END)[2]
    PAGE.write_text(before + _BEGIN + "\n" + "\n".join(lines) + "\n\n" + _END + behind)
    print("\n".join(lines[:8]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
