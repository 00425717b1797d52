"""Notices to senders in the simulation: how control's letters reach intake, and what they say.

The bus blocks the thread that asks. Here the work of a thread is one step, in which no other process can
answer: whoever asks gets no answer, the question is carried to the other process, and who asks again finds
the answer, unless it got lost. That is what happens over the real bus where an answer comes too late, and it
is always so here.
"""

from __future__ import annotations

import email
from asyncio import AbstractEventLoop, Task
from collections.abc import Awaitable, Callable
from email.message import Message
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, TypeVar

import msgspec

from dispatch.app.bounces import OverTheBus
from dispatch.intake.submit import Submit
from dispatch.outcomes.bounce import NoAnswer
from dispatch.ports import Disk

LOST_SHARE = 0.1
"""How many answers get lost."""
LATE_S = 20.0
"""How long some questions are on their way: they may be asked again before."""

Answered = TypeVar("Answered")
Handle = Callable[[Any], Awaitable[Any]]
Door = Callable[[str], tuple[AbstractEventLoop, Handle] | None]
"""Where a role can be asked now; None where it is not there."""


class Said(NamedTuple):
    """What a notice says of one recipient (RFC 3464 section 2.3)."""

    recipient: str
    action: str


class Letters:
    """All notices that were ever handed in, by whatever life of control."""

    def __init__(self) -> None:
        self._said: dict[str, tuple[Said, ...]] = {}
        """By the idempotency key."""
        self._keys: dict[bytes, str] = {}
        self._recipients: dict[str, str] = {}

    def write(self, request: Submit) -> None:
        """A notice leaves. The same one again says the same, though the original may be gone meanwhile."""
        key, envelope = request.idempotency_key, request.envelope
        assert key is not None
        assert not envelope.reverse_path, f"notice {key} could be answered with another"
        (recipient,) = [recipient.address for recipient in envelope.recipients]
        assert self._recipients.setdefault(key, recipient) == recipient
        said = said_in(request.content)
        assert said, f"notice {key} tells of nobody"
        assert self._said.setdefault(key, said) == said, f"notice {key} tells something else the second time"
        self._keys[request.content] = key

    def said(self, key: str) -> tuple[Said, ...]:
        """What the notice with this key tells."""
        return self._said[key]

    def is_for(self, content: bytes, recipients: tuple[str, ...]) -> bool:
        """Whether exactly this was handed in, and for them."""
        key = self._keys.get(content)
        return key is not None and recipients == (self._recipients[key],)


def said_in(content: bytes) -> tuple[Said, ...]:
    """Of each recipient that a notice names, as its own mail program would read it."""
    notice = email.message_from_bytes(content)
    assert notice.get_content_type() == "multipart/report", content[:300]
    _, status, *_ = _parts(notice)
    assert status.get_content_type() == "message/delivery-status", content[:3000]
    return tuple(
        Said(fields["Final-Recipient"].partition(";")[2].strip(), fields["Action"])
        for fields in _parts(status)
        if fields["Final-Recipient"]
    )


def _parts(message: Message) -> list[Message]:
    parts = message.get_payload()
    assert isinstance(parts, list)
    return [part for part in parts if isinstance(part, Message)]


class Carrier(OverTheBus):
    """`outcomes.bounce.Post` of one life of control."""

    def __init__(self, door: Door, disk: Disk, random: Random, letters: Letters) -> None:
        super().__init__(Path(), disk)
        self._door = door
        self._random = random
        self._letters = letters
        self._answers: dict[bytes, object] = {}

    def _ask(self, role: str, request: object, answers: msgspec.msgpack.Decoder[Answered]) -> Answered:
        if isinstance(request, Submit):
            self._letters.write(request)
        question = msgspec.msgpack.encode(request)
        if question in self._answers:
            return answers.decode(msgspec.msgpack.encode(self._answers.pop(question)))
        there = self._door(role)
        if there is None:
            raise NoAnswer(f"{role} is not there")
        loop, handle = there

        def carry() -> None:
            task = loop.create_task(_asked(handle, request))
            task.add_done_callback(partial(self._answered, question))

        loop.call_later(self._random.choice((0.0, self._random.uniform(0.0, LATE_S))), carry)
        raise NoAnswer(f"{role} has not answered yet")

    def _answered(self, question: bytes, task: Task[object]) -> None:
        if task.cancelled() or task.exception() is not None:
            # The bus tells who asks that there was a fault.
            return
        if self._random.random() >= LOST_SHARE:
            self._answers[question] = task.result()


async def _asked(handle: Handle, request: object) -> object:
    return await handle(request)
