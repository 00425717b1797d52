"""What RFC 5321 section 4.1 allows between a verb and its CRLF: paths, domains, parameters.

Strings in, strings out; None means "this is not one". Rules:

- Exact in storage: an address is kept letter for letter, quotes and backslashes included, because only
  the host that owns the mailbox may interpret a local part (RFC 5321 section 2.3.11).
- Tolerant where senders in the field need it, as long as only one reading is possible. Accepted beyond
  the RFC: white space behind `FROM:` and `TO:`; a path without its angle brackets, if it is a plain
  unquoted `local@domain`; names without a dot; underscores and edge hyphens in domains; dots anywhere in
  an unquoted local part; a bare local part without domain (who may use one is policy, not grammar); any
  local part that fits the command line.
- Refused: everything that could be read in two ways, such as unbalanced brackets or half-quoted local parts.
- UTF-8 (RFC 6531) stands wherever atext does. Control characters of either range, the Unicode line and
  paragraph separators, and the surrogates that stand for undecodable octets are never part of anything.

Trap: every pattern is compiled with `re.ASCII`. Without it IGNORECASE takes U+017F for an `s`, and `\\d`
matches digits that no peer will understand.

Whether a domain exists, or is valid IDNA, is not decided here.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

DOMAIN_BYTES_MAX = 255  # RFC 5321 section 4.5.3.1.2

_UTF8 = "\u00a0-\u2027\u202a-\ud7ff\ue000-\U0010ffff"
_ATEXT = f"A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{_UTF8}-"
_LOCAL = f"[{_ATEXT}.]+"
_QUOTED = rf'"(?:[ !#-\[\]-~{_UTF8}]|\\[ -~])*"'
_LABEL = f"[A-Za-z0-9_{_UTF8}-]+"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[!-Z^-~]+\]"
_ROUTE = f"@{_DOMAIN}(?:,@{_DOMAIN})*:"

_ASCII_LABEL = "[A-Za-z0-9_-]+"
PLAIN_ADDRESS = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~.-]+@{_ASCII_LABEL}(?:\.{_ASCII_LABEL})*"
"""The usual shape: a pattern for those who want to skip the general way, never for another meaning."""

_path = re.compile(
    rf"<(?:(?:{_ROUTE})?((?:{_LOCAL}|{_QUOTED})(?:@({_DOMAIN}|{_LITERAL}))?))?>", re.ASCII
).match
_unbracketed = re.compile(f"({_LOCAL}@({_DOMAIN}))", re.ASCII).match
_parameter = re.compile(f"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~{_UTF8}]+))?", re.ASCII).fullmatch
_keyword = re.compile("[A-Za-z0-9-]+", re.ASCII).fullmatch
_xtext = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+", re.ASCII).fullmatch
_utf8_xtext = re.compile(rf"(?:[!-*,-<>-~{_UTF8}]|\+[0-9A-F]{{2}})+", re.ASCII).fullmatch
_general_literal = re.compile(r"\[[A-Za-z0-9-]*[A-Za-z0-9]:[!-Z^-~]+\]", re.ASCII).fullmatch


def read_path(text: str) -> tuple[str, str] | None:
    """The address at the start of `text`, "" for `<>`, and what stands behind it: "" or " parameters".

    A source route is dropped (RFC 5321 section 4.1.1.3 and appendix C: accept it, ignore it).
    """
    text = text.lstrip(" \t")
    match = _path(text) or _unbracketed(text)
    if match is None:
        return None
    rest = text[match.end() :]
    if rest and rest[0] != " ":
        return None
    domain = match[2]
    if domain and not is_domain(domain):
        return None
    return match[1] or "", rest


def is_address(text: str) -> bool:
    """Nothing but one address with a domain, without angle brackets."""
    path = read_path(f"<{text}>")
    return path is not None and path == (text, "") and "@" in text


def is_domain(domain: str) -> bool:
    """A domain of bearable length, or an address literal that says what it claims to say."""
    return _is_literal(domain) if domain[0] == "[" else len(domain.encode()) <= DOMAIN_BYTES_MAX


def _is_literal(literal: str) -> bool:
    """RFC 5321 section 4.1.3."""
    inner = literal[1:-1]
    try:
        if inner[:5].upper() == "IPV6:":
            return IPv6Address(inner[5:]).scope_id is None
        if ":" not in inner:
            IPv4Address(inner)
            return True
    except AddressValueError:
        return False
    return _general_literal(literal) is not None


def read_parameters(text: str) -> list[tuple[str, str | None]] | None:
    """ESMTP parameters (RFC 5321 section 4.1.2): keywords in upper case with values as they came."""
    parameters = []
    for part in text.split(" "):
        if not part:
            continue
        match = _parameter(part)
        if match is None:
            return None
        parameters.append((match[1].upper(), match[2]))
    return parameters


_unfit_for_trace = re.compile(r"[^A-Za-z0-9!#$%&'*+/=?^_`{|}~.:\[\]-]")


def read_hello_name(argument: str) -> str | None:
    """What a client calls itself, or None where it says nothing, or more than a domain may hold.

    Devices send bare names, underscores, spaces, Latin-1: none of it is a reason to refuse their mail.
    The name ends up in our `Received` field, so what cannot stand in an RFC 5322 dot-atom or domain literal
    becomes `?`.
    """
    name = argument.strip(" \t")
    if not name or len(name) > DOMAIN_BYTES_MAX:
        return None
    return _unfit_for_trace.sub("?", name)


def is_xtext(value: str) -> bool:
    """RFC 3461 section 4."""
    return _xtext(value) is not None


def is_original_recipient(value: str) -> bool:
    """The value of ORCPT: address type, `;`, xtext (RFC 3461 section 4.2; RFC 6533 section 3 for `utf-8`)."""
    kind, semicolon, address = value.partition(";")
    if not semicolon or _keyword(kind) is None:
        return False
    return (_utf8_xtext if kind.lower() == "utf-8" else _xtext)(address) is not None
