"""Postfix, Exim and a Java program hand mail in, in clear or by TLS and with a login: all arrives as it was.

Fifty messages each: several recipients and a thousand, dots, 8-bit content, UTF-8 addresses, long lines,
thirty megabytes. The largest are also handed in by the clients that people use.
"""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.scenarios.clients import CLIENTS, with_smtplib
from tests.scenarios.exact_upstream import ExactUpstream, Taken
from tests.scenarios.mail_servers import EximServer, MailServer, PostfixServer
from tests.scenarios.offers import HEADER, HELO, INTERNATIONAL, OFFERS, YOU, Offer, without_our_trace
from tests.scenarios.programs import jakarta_mail
from tests.scenarios.relay import Relay, free_port, until
from tests.scenarios.secure_clients import Mode, Way

from dispatch.security.passwords import hash_password

pytestmark = pytest.mark.timeout(600)  # programs may have to be installed first

USER, PASSWORD = "gateway@example.org", "Correct-horse-battery"
HASHED = hash_password(PASSWORD)
MODES: tuple[Mode, ...] = ("none", "starttls", "implicit")
MESSAGES = 50
LARGE_BYTES = 30 << 20
LIMITS = {"max_message_bytes": 40 << 20}
LINE = b".x" * 38 + b"\r\n"
LARGE = Offer("me@example.org", YOU, HEADER + b"\r\n" + LINE * (LARGE_BYTES // len(LINE)))
CROWD = Offer(
    "me@example.org",
    tuple(f"u{number}@example.net" for number in range(1_000)),
    HEADER + b"\r\nTo a thousand.\r\n",
)
SERVERS: dict[str, type[PostfixServer] | type[EximServer]] = {"postfix": PostfixServer, "exim": EximServer}


def numbered(kinds: Sequence[Offer]) -> list[Offer]:
    """Each with its number in the header."""
    return [
        replace(kind, content=b"X-Number: %d\r\n%b" % (number, kind.content))
        for number, kind in enumerate(kinds)
    ]


def offers() -> list[Offer]:
    small = [INTERNATIONAL, *OFFERS.values()]
    kinds = [LARGE, CROWD, *small]
    kinds += [small[number % len(small)] for number in range(MESSAGES - len(kinds))]
    return numbered(kinds)


@pytest.fixture
def upstream() -> Iterator[ExactUpstream]:
    one = ExactUpstream()
    yield one
    one.close()


def opened(relay: Relay, upstream: ExactUpstream, mode: Mode) -> Way:
    """The way into a relay that takes mail from one login only, or in clear from everybody."""
    tls_port = free_port()
    listener = {"tls_ports": [tls_port], "require_auth": mode != "none", **LIMITS}
    relay.configure(upstream.table(), listener=listener)
    with relay.config.open("a") as file:
        file.write(f"[[logins]]\nname = {json.dumps(USER)}\npassword = {json.dumps(HASHED)}\n")
    relay.start()
    if mode == "none":
        return Way(relay.port, mode)
    return Way(tls_port if mode == "implicit" else relay.port, mode, USER, PASSWORD)


@contextmanager
def running(kind: str, way: Way) -> Iterator[MailServer]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        server = SERVERS[kind](Path(folder), way)
        server.start()
        try:
            yield server
        finally:
            server.stop()


def all_taken(relay: Relay, upstream: ExactUpstream, expected: int, what: str) -> dict[int, Taken]:
    """By number, once so many have arrived and the relay has nothing left."""
    until(lambda: len(upstream.taken) >= expected, f"{what} has handed all in", bound_s=120)
    until(lambda: not relay.queue(), "nothing is left")
    taken = {int(re.findall(rb"(?m)^X-Number: (\d+)\r$", each.content)[0]): each for each in upstream.taken}
    assert len(taken) == len(upstream.taken) == expected, "each once"
    assert not upstream.strange and not any(each.faults() for each in taken.values())
    return taken


def without_trace(taken: Taken, offer: Offer, helo: str, *, own: bool) -> bytes:
    """As it was offered to a server that adds a `Received` of its own, or to the relay itself."""
    rest = without_our_trace(taken.content, offer.content, helo)
    if not own:
        return rest
    theirs = re.match(rb"Received: from [^\r\n]+\r\n(?:[ \t][^\r\n]+\r\n)+", rest)
    assert theirs is not None, rest[:600]
    return rest[theirs.end() :]


def assert_as_offered(
    taken: dict[int, Taken], offered: Sequence[Offer], helo: str, *, own: bool = False
) -> None:
    for number, offer in enumerate(offered):
        one = taken[number]
        assert (one.reverse_path, sorted(one.recipients)) == (offer.sender, sorted(offer.recipients)), number
        # No assertion on the values themselves: explaining how 30 MB differ takes minutes.
        rest = without_trace(one, offer, helo, own=own)
        same = rest == offer.content
        assert same, (number, len(rest), len(offer.content), rest[:600])


def assert_came(taken: dict[int, Taken], mode: Mode) -> None:
    """By TLS and with a login, or in clear, as our `Received` says (RFC 3848, RFC 6531 section 4.3)."""
    how = rb"(ESMTP|UTF8SMTP)\s+id " if mode == "none" else rb"(ESMTPSA|UTF8SMTPSA)\s+\(TLSv1\.3 "
    for one in taken.values():
        assert re.match(rb"[^;]+ with " + how, one.content), one.content[:600]


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("postfix", "starttls"),
        *(
            pytest.param(kind, mode, marks=pytest.mark.long)
            for kind, mode in itertools.product(SERVERS, MODES)
            if (kind, mode) != ("postfix", "starttls")
        ),
    ],
)
def test_a_mail_server_sends_everything_through_us(
    relay: Relay, upstream: ExactUpstream, kind: str, mode: Mode, tmp_path: Path
) -> None:
    offered = offers()
    with running(kind, opened(relay, upstream, mode)) as server:
        for offer in offered:
            with_smtplib(server.port, tmp_path, offer)
        try:
            taken = all_taken(relay, upstream, MESSAGES, "the server")
            assert_as_offered(taken, offered, server.name, own=True)
            assert_came(taken, mode)
        except AssertionError as error:
            error.add_note(server.log()[-3_000:])
            raise


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES)
def test_a_java_program_sends_everything_through_us(
    relay: Relay, upstream: ExactUpstream, mode: Mode, tmp_path: Path
) -> None:
    java, classes = jakarta_mail()
    way = opened(relay, upstream, mode)
    login = [] if way.user is None else [way.user, way.password]
    offered = offers()
    orders = []
    for number, offer in enumerate(offered):
        file = tmp_path / str(number)
        file.write_bytes(offer.content)
        orders.append("\t".join([str(file), offer.sender, *offer.recipients]))
    program = Path(__file__).with_name("JakartaMail.java")
    done = subprocess.run(
        [java, "-cp", classes, str(program), str(way.port), HELO, mode, *login],
        input="\n".join(orders).encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    taken = all_taken(relay, upstream, MESSAGES, "the program")
    assert_as_offered(taken, offered, HELO)
    assert_came(taken, mode)


@pytest.mark.long
@pytest.mark.parametrize("client", list(CLIENTS))
def test_a_client_hands_in_thirty_megabytes_and_to_a_thousand(
    relay: Relay, upstream: ExactUpstream, client: str, tmp_path: Path
) -> None:
    relay.configure(upstream.table(), listener=LIMITS).start()
    offered = numbered([LARGE, CROWD])
    for offer in offered:
        CLIENTS[client](relay.port, tmp_path, offer)
    assert_as_offered(all_taken(relay, upstream, len(offered), "the client"), offered, HELO)
