"""The same as of the whole relay where relays deliver directly: domains apart, through deaths and power cuts.

The recipients of these worlds have one domain, and all their hosts are where everything listens; so here an
address has the domain that its letters add up to.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from tests.simulation.many import run_seed
from tests.simulation.world import World

from dispatch.queue import work
from dispatch.relays import direct
from dispatch.settings import Settings

# SQLite passes over a WAL that it cannot remove when it closes; its driver can only print that.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SEEDS = 30
LONG_SEEDS = 3_000
SEEDS_A_TEST = 10
DOMAINS = 3


def domain_of(address: str) -> str:
    return f"d{sum(map(ord, address)) % DOMAINS}.example"


class DirectWorld(World):
    """One relay, or all of them, deliver directly."""

    def configured(self, settings: Settings) -> Settings:
        direct_ones = ((1,), (0, 1, 2), (0,))[self.seed % 3]
        relays = tuple(
            msgspec.structs.replace(
                relay, kind="direct", host="", tls="none", max_concurrency_per_domain=1 + self.seed % 2
            )
            if number in direct_ones
            else relay
            for number, relay in enumerate(settings.relays)
        )
        return msgspec.structs.replace(settings, relays=relays)


@pytest.fixture(autouse=True)
def _domains(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (work, direct):
        monkeypatch.setattr(module, "destination", domain_of)
    yield


def _run(first: int) -> None:
    for seed in range(first, first + SEEDS_A_TEST):
        totals, failure = run_seed(seed, DirectWorld)
        if failure is not None:
            failure.add_note(f"a world of direct delivery, seed {seed}")
            raise failure
        assert totals.taken, "the hosts have had mail"


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_nothing_is_lost_and_every_repeat_has_its_record(first: int) -> None:
    _run(first)


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("first", range(SEEDS, SEEDS + LONG_SEEDS, SEEDS_A_TEST))
def test_the_same_for_many_more_seeds(first: int) -> None:
    _run(first)
