"""Policies of mail domains (MTA-STS, RFC 8461): found by DNS, had over HTTPS, kept for as long as they say.

Rules:

- DNS is asked for the record of a domain when a session with it is opened, at most once in the life of the
  answer, within `LOOK_S_MIN` and `LOOK_S_MAX`. A policy is fetched when the record's id is another one, and
  again when half of its age is over, so that none that is still published ever ends (section 3.3).
- What cannot be had is no reason to forget what was: whoever suppresses DNS or HTTPS must not end a policy
  (section 5.1, section 10.2). It ends with its age, or by one whose mode is *none*.
- A fetch that failed is not repeated for `AGAIN_S`.
- Only an answer of 200 with a text is a policy; a redirect is none (section 3.3).
- One question at a time for a domain: whoever asks meanwhile gets the same answer.

Trap: a domain's very first policy is had only if nobody suppresses it then. A start forgets all of them.

Deliberately not here: what a policy means (`policy.mta_sts`, `direct_domain`), and reports to the domain (RFC
8460).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from dispatch.policy.mta_sts import InvalidPolicy, Policy, parse_policy, policy_id
from dispatch.ports import Clock, HttpClient, NameFault, Resolver

LOOK_S_MIN = 60.0
LOOK_S_MAX = 3600.0
AGAIN_S = 300.0
FETCH_S = 60.0
PAGE_BYTES_MAX = 64 << 10
"""These two are those of section 3.3."""
ADDRESSES_MAX = 4
KEPT_MAX = 1000
"""Domains of which something is known; then that which has been for longest goes, those without a policy
first."""


class _Known:
    """What is known of a domain."""

    __slots__ = ("ends_at", "fetched_id", "look_at", "policy", "renew_at")

    def __init__(self) -> None:
        self.policy: Policy | None = None
        self.fetched_id: str | None = None
        self.look_at = 0.0
        """When DNS is asked again."""
        self.renew_at = 0.0
        self.ends_at = 0.0

    def at(self, now_s: float) -> Policy | None:
        return self.policy if now_s < self.ends_at else None


class StsPolicies:
    """The policies of all domains that a relay delivers to."""

    def __init__(self, clock: Clock, resolver: Resolver, http: Callable[[], HttpClient]) -> None:
        """`http` is called when the first policy is fetched. Raises what it raises: `ValueError`."""
        self._clock = clock
        self._resolver = resolver
        self._http = http
        self._known: dict[str, _Known] = {}
        self._asking: dict[str, asyncio.Task[Policy | None]] = {}

    @property
    def domains(self) -> int:
        """Of how many something is known."""
        return len(self._known)

    async def policy_of(self, domain: str) -> Policy | None:
        """The one in force now; None where the domain has none. `domain` is as DNS knows it."""
        known = self._known.get(domain)
        now_s = self._clock.monotonic()
        if known is not None and now_s < known.look_at:
            return known.at(now_s)
        asking = self._asking.get(domain)
        if asking is None:
            self._asking[domain] = asking = asyncio.ensure_future(self._look(domain))
            asking.add_done_callback(lambda _: self._asking.pop(domain))
        # Who gives up waiting does not end it for the others.
        return await asyncio.shield(asking)

    async def _look(self, domain: str) -> Policy | None:
        record_id, wait_s = await self._record(domain)
        known = self._known.get(domain)
        if known is None:
            self._make_room()
            known = self._known[domain] = _Known()
        now_s = self._clock.monotonic()
        known.look_at = now_s + wait_s
        if record_id is None or (record_id == known.fetched_id and now_s < known.renew_at):
            return known.at(now_s)
        policy = await self._fetched(domain)
        now_s = self._clock.monotonic()
        if policy is None:
            known.look_at = now_s + AGAIN_S
        else:
            known.policy, known.fetched_id = policy, record_id
            known.renew_at = now_s + policy.max_age_s / 2
            known.ends_at = now_s + policy.max_age_s
        return known.at(now_s)

    async def _record(self, domain: str) -> tuple[str | None, float]:
        """The id of the domain's record, and how long the answer holds."""
        try:
            answer = await self._resolver.txt(f"_mta-sts.{domain}.")
        except NameFault:
            return None, AGAIN_S
        return policy_id(answer.values), min(max(answer.ttl_s, LOOK_S_MIN), LOOK_S_MAX)

    async def _fetched(self, domain: str) -> Policy | None:
        host = f"mta-sts.{domain}"
        try:
            addresses = (await self._resolver.addresses(f"{host}.")).values[:ADDRESSES_MAX]
            answer = await self._http().get(
                f"https://{host}/.well-known/mta-sts.txt",
                addresses,
                timeout_s=FETCH_S,
                answer_bytes_max=PAGE_BYTES_MAX,
            )
            kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if answer.status != 200 or kind != "text/plain":
                return None
            return parse_policy(answer.body)
        except (OSError, ValueError, InvalidPolicy):
            # ValueError: a name that no URL can hold, or a file of roots that cannot be read.
            return None

    def _make_room(self) -> None:
        if len(self._known) < KEPT_MAX:
            return
        now_s = self._clock.monotonic()
        without = next((domain for domain, known in self._known.items() if known.at(now_s) is None), None)
        del self._known[without or next(iter(self._known))]
