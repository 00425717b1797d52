"""A relay that delivers directly, as it is written, and what its settings become."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.settings.test_relays import loaded, said

from dispatch.app.lanes import direct_template, dnssec_from, lane_rules, ourselves
from dispatch.security.networks import parse_server

DIRECT = '[[relays]]\nname = "out"\nkind = "direct"\n'


def test_it_needs_nothing_but_its_kind(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DIRECT).settings
    (relay,) = settings.relays
    assert lane_rules(settings, relay).per_domain_max == 3
    template = direct_template(settings, relay)
    assert (template.port, template.tls, template.max_concurrency) == (25, "auto", 3)
    assert template.trust.verify, "where a domain demands it"
    assert relay.mta_sts
    assert template.helo_name == "relay.example.org"


def test_a_domain_never_has_more_connections_than_all_together(tmp_path: Path) -> None:
    settings = loaded(tmp_path, DIRECT + "max_concurrency = 2\nmax_concurrency_per_domain = 10\n").settings
    assert direct_template(settings, settings.relays[0]).max_concurrency == 2


def test_an_smtp_relay_knows_no_domains(tmp_path: Path) -> None:
    settings = loaded(tmp_path, '[[relays]]\nname = "a"\nhost = "192.0.2.1"\n').settings
    assert lane_rules(settings, settings.relays[0]).per_domain_max == 0


@pytest.mark.parametrize(
    "line",
    [
        'host = "mx.example"',
        'preset = "gmail"',
        'lookup = "mx"',
        "verify = false",
        f'fingerprint = "{"ab" * 32}"',
        'username = "me"\npassword = "x"',
        "allow_unsecure_auth = true",
        'oauth_provider = "google"',
    ],
)
def test_what_is_said_of_one_host_is_refused(tmp_path: Path, line: str) -> None:
    mistakes = said(tmp_path, DIRECT + line + "\n")
    key = line.partition(" ")[0]
    what = "is no use to direct delivery, whose hosts are those of the recipients"
    assert any(f"relays.out.{key}: {what}" in mistake for mistake in mistakes), mistakes
    assert all('write kind = "smtp"' in mistake for mistake in mistakes), mistakes


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
def test_tls_modes_that_need_a_known_host_are_refused(tmp_path: Path, tls: str) -> None:
    (mistake,) = said(tmp_path, DIRECT + f'tls = "{tls}"\n')
    assert f'relays.out.tls: is "{tls}", which cannot be asked' in mistake


def test_a_flush_is_refused(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, DIRECT + "flush_interval_seconds = 60\n")
    assert "relays.out.flush_interval_seconds: is no use to direct delivery" in mistake


@pytest.mark.parametrize("key", ["ca_file", "mta_sts", "dnssec_from"])
def test_what_is_said_of_tls_is_refused_where_there_is_none(tmp_path: Path, key: str) -> None:
    value = {"mta_sts": "true", "ca_file": '"/etc/ca.pem"', "dnssec_from": '"all"'}[key]
    (mistake,) = said(tmp_path, DIRECT + f'tls = "none"\n{key} = {value}\n')
    assert f'relays.out.{key}: is no use with tls = "none"' in mistake


@pytest.mark.parametrize(
    "line",
    [
        "max_concurrency_per_domain = 5",
        'dns_servers = ["192.0.2.53"]',
        "mta_sts = false",
        'dnssec_from = "all"',
    ],
)
def test_a_relay_with_a_host_has_no_keys_of_direct_delivery(tmp_path: Path, line: str) -> None:
    (mistake,) = said(tmp_path, f'[[relays]]\nname = "a"\nhost = "192.0.2.1"\n{line}\n')
    assert 'is no use to a relay that has a host; remove it, or write kind = "direct"' in mistake


def test_what_changes_mail_on_its_way_is_checked_as_of_any_relay(tmp_path: Path) -> None:
    (mistake,) = said(tmp_path, DIRECT + "keep_display_name = true\n")
    assert "relays.out.keep_display_name: is no use without header_from" in mistake


@pytest.mark.parametrize(
    ("written", "server"),
    [
        ("192.0.2.53", ("192.0.2.53", None)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", None)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
    ],
)
def test_name_servers(tmp_path: Path, written: str, server: tuple[str, int | None]) -> None:
    (relay,) = loaded(tmp_path, DIRECT + f'dns_servers = ["{written}"]\n').settings.relays
    assert [parse_server(each) for each in relay.dns_servers] == [server]


@pytest.mark.parametrize(
    "written", ["dns.example", "192.0.2.53:0", "192.0.2.53:x", "[192.0.2.53]:53", "192.0.2.53:65536", ""]
)
def test_what_is_no_name_server_is_refused(tmp_path: Path, written: str) -> None:
    (mistake,) = said(tmp_path, DIRECT + f'dns_servers = ["{written}"]\n')
    assert "is no address of a server; write an address like 192.0.2.1, 192.0.2.1:5353" in mistake


def test_nobody_vouches_for_names_where_nothing_is_encrypted(tmp_path: Path) -> None:
    assert dnssec_from(loaded(tmp_path, DIRECT).settings.relays[0]) == "loopback"
    for line, whose in (('dnssec_from = "all"', "all"), ('tls = "none"', "none")):
        assert dnssec_from(loaded(tmp_path, f"{DIRECT}{line}\n").settings.relays[0]) == whose


def test_it_knows_its_own_names_and_whether_loopback_is_its_own(tmp_path: Path) -> None:
    text = '[listener]\nserver_name = "Relay.Example."\nports = [2525]\n' + DIRECT
    settings = loaded(tmp_path, text + 'helo_name = "out.example"\nport = 2525\n').settings
    found = ourselves(settings, settings.relays[0])
    assert found.names == {"relay.example", "out.example"}
    assert found.on_loopback
    settings = loaded(tmp_path, text).settings
    assert not ourselves(settings, settings.relays[0]).on_loopback
