"""Addresses as they stand between the angle brackets (RFC 5321 section 4.1.2, RFC 6531).

An address is a `str`, kept exactly as the client wrote it; the null reverse-path is the empty
string. Whether a string *is* an address is decided once, by `smtp.grammar`, on its way in;
here it is only taken apart.
"""

from __future__ import annotations


def split_address(address: str) -> tuple[str, str]:
    """The local part and the domain; the domain is empty where there is none (`postmaster`).

    The last `@` divides them: a quoted local part may hold others (RFC 5321 section 4.1.2).
    """
    local_part, at, domain = address.rpartition("@")
    return (local_part, domain) if at else (address, "")


def mask_address(address: str) -> str:
    """`alice@example.org` as `a***@example.org`, for logs."""
    local_part, domain = split_address(address)
    masked = local_part[:1] + "***"
    return f"{masked}@{domain}" if domain else masked
