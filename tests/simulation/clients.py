"""A crowd of SMTP clients that offers messages over as many connections as it needs, all from one seed.

What a message is, its token says (`contents`); how a connection behaves, its `manners`. The crowd gives
out what is to be offered, keeps the `Books`, and offers again what came to no end: a number of times,
and as often, and mostly as soon, as it takes once it is calm.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from random import Random

from tests.simulation.books import Books, Offering
from tests.simulation.contents import Shape, recipients_of, token_of
from tests.simulation.manners import Client
from tests.simulation.network import SimulatedNetwork
from tests.simulation.speech import Reply

from dispatch.mail.ids import MessageId

__all__ = ["Books", "Crowd"]

REPEATS_MAX = 5
BULKY_SHARE = 0.04
PATIENT_SHARE = 0.1
"""Of the crowds, how many go on waiting when it is calm."""
_USUAL_SHAPES = (
    *(Shape.PLAIN,) * 5,
    *(Shape.BARE,) * 3,
    *(Shape(number) for number in range(Shape.DATED, Shape.BULKY)),
    *(Shape(number) for number in range(Shape.DATED, Shape.BULKY)),
    Shape.LOOP,
    Shape.BARE_NEWLINE,
)
_REPEAT_DELAYS_S = (0.0, 0.01, 1.0, 5.0, 30.0, 120.0)
_CALM_REPEAT_DELAYS_S = (0.01, 1.0)
_DIAL_DELAYS_S = (0.0, 0.0, 0.001, 0.05, 1.0)
_REDIAL_DELAYS_S = (0.05, 0.5, 2.0, 5.0)


class Crowd:
    """Offers what it is asked to, as clients do."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        network: SimulatedNetwork,
        port: int,
        random: Random,
        books: Books,
        *,
        trouble: float = 1.0,
        large_share: float = 0.0,
    ) -> None:
        """`large_share`: of the messages, how many are above a mebibyte."""
        self.loop = loop
        self.network = network
        self.random = random
        self.books = books
        self.trouble = trouble
        self.clients_max = random.choice((1, 2, 4, 8))
        self._port = port
        self._large_share = large_share
        self._clients: dict[Client, None] = {}
        self._connections = 0
        self._dialling = 0
        self._fresh = 0
        """Messages to be offered that have no token yet."""
        self._serial = 0
        self._again: deque[int] = deque()
        self._wanted: dict[int, tuple[str, ...]] = {}
        """Tokens that have not come to their end, and whom they are still to be offered for."""
        self._repeats: Counter[int] = Counter()
        self._resting: dict[int, asyncio.TimerHandle] = {}
        """Tokens that wait for a while before they are offered again."""

    def offer(self, count: int) -> None:
        """Offer so many new messages, as soon as connections come about."""
        self._fresh += count
        self._open_as_needed()

    @property
    def done(self) -> bool:
        """Every message was answered for good, or was given up."""
        return not self._fresh and not self._wanted

    # ------------------------------------------------------------ connections

    def _open_as_needed(self, delays_s: tuple[float, ...] = _DIAL_DELAYS_S) -> None:
        waiting = self._fresh + len(self._again)
        wanted = min(self.clients_max, (waiting + 3) // 4)
        for _ in range(wanted - len(self._clients) - self._dialling):
            self._dialling += 1
            self.loop.call_later(self.random.choice(delays_s), self._dial)

    def _dial(self) -> None:
        if not self._fresh and not self._again:
            self._dialling -= 1
            return
        client = Client(self)
        number = self._connections + 1
        try:
            self.network.dial(
                self.loop, self._port, lambda: client, f"192.0.2.{1 + number % 5}", f"client {number}"
            )
        except ConnectionRefusedError:
            self.loop.call_later(self.random.choice(_REDIAL_DELAYS_S), self._dial)
        else:
            self._dialling -= 1
            self._connections = number
            self._clients[client] = None

    def gone(self, client: Client) -> None:
        del self._clients[client]
        self._open_as_needed(_DIAL_DELAYS_S if client.greeted else _REDIAL_DELAYS_S)

    # ------------------------------------------------------------ messages

    def take_up(self) -> Offering | None:
        """What is to be offered next."""
        if self._again and (not self._fresh or self.random.random() < 0.5):
            token = self._again.popleft()
        elif self._fresh:
            self._fresh -= 1
            token = self._new_token()
        else:
            return None
        return Offering(token, self._wanted[token])

    def _new_token(self) -> int:
        self._serial += 1
        chance = self.random.random()
        if chance < self._large_share:
            shape = Shape.LARGE
        elif chance < self._large_share + BULKY_SHARE:
            shape = Shape.BULKY
        else:
            shape = self.random.choice(_USUAL_SHAPES)
        token = token_of(self._serial, shape)
        self._wanted[token] = self.books.offered[token] = recipients_of(token)
        return token

    def acknowledged(self, offering: Offering, message_id: MessageId) -> None:
        self.books.acknowledge(offering, message_id)
        self._settle(offering.token, offering.deferred)

    def refused(self, offering: Offering, reply: Reply) -> None:
        self.books.refuse(offering, reply.code, reply.text)
        if not offering.accepted and (offering.deferred or offering.rejected):
            left = offering.deferred
        elif reply.code >= 500:
            left = []
        else:
            left = [address for address in offering.recipients if address not in offering.rejected]
        self._settle(offering.token, left)

    def lost(self, offering: Offering) -> None:
        self.books.lose(offering)
        self._settle(offering.token, list(offering.recipients))

    def _settle(self, token: int, left: list[str]) -> None:
        """Offer it again for those that are left."""
        if not left:
            del self._wanted[token]
            return
        self._wanted[token] = tuple(left)
        self._repeats[token] += 1
        if self._repeats[token] > REPEATS_MAX and not self.books.calm:
            del self._wanted[token]
            self.books.given_up[token] = None
        else:
            self._rest(token, _CALM_REPEAT_DELAYS_S if self.books.calm else _REPEAT_DELAYS_S)

    def _rest(self, token: int, delays_s: tuple[float, ...]) -> None:
        self._resting[token] = self.loop.call_later(self.random.choice(delays_s), self._repeat, token)

    def calm(self) -> None:
        """From now on clients behave. Most crowds have no patience left either: minutes in which nothing
        but the relay's clocks goes on are seen in the others."""
        self.books.calm = True
        if self.random.random() < PATIENT_SHARE:
            return
        for token, timer in list(self._resting.items()):
            timer.cancel()
            self._rest(token, _CALM_REPEAT_DELAYS_S)

    def _repeat(self, token: int) -> None:
        del self._resting[token]
        self._again.append(token)
        self._open_as_needed()
