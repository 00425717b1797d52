"""The content of one submission while it arrives: in memory, or spilled to a file of its own.

Small content stays in memory until it is a record of the log. What grows beyond `INLINE_BYTES_MAX`, or
what the process-wide budget has no room for, goes to a file while it arrives, so a connection costs bounded
memory whatever it sends (invariant 6). Our trace stands in front of the content, so the header
section is looked at when the file is begun; a loop is refused at the end, as it is for content in memory.
"""

from __future__ import annotations

from functools import partial
from typing import Protocol

from dispatch.intake.acceptance import Acceptance, Answered, Marked, Submission
from dispatch.mail.ids import MessageId
from dispatch.mail.message import ContentFile
from dispatch.mail.reply import Reply, reply
from dispatch.policy.admission import Refusal, refuse_undurable
from dispatch.ports import AppendFault
from dispatch.spool.content import INLINE_BYTES_MAX, ContentFolder, ContentWriter

HEADER_TOO_LARGE = Refusal(
    reply(552, "5.3.4", "The header section is larger than a mebibyte"),
    "a header section above a mebibyte: relays could not be handed such content without Bcc",
    "size",
)
SPILL_BYTES_MIN = 64 << 10
"""Not even without any room is less than this spilled: a header section should be whole when it is read."""


class Budget:
    """Bytes of content that the process holds in memory, of all connections together."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Count it as held; False where that passes the limit."""
        self.held_bytes += size_bytes
        return self.held_bytes <= self.bytes_max

    def give_back(self, size_bytes: int) -> None:
        self.held_bytes -= size_bytes


class Flow(Protocol):
    """Whoever sends the content can be asked to wait."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...


class Incoming:
    """One content. `begin`, then `add` as it comes, then `end` or `drop`."""

    def __init__(self, acceptance: Acceptance, files: ContentFolder, budget: Budget) -> None:
        self._acceptance = acceptance
        self._files = files
        self._budget = budget
        self._chunks: list[bytes] = []
        self._held_bytes = 0
        self._submission: Submission | None = None
        self._flow: Flow | None = None
        self._marked: Marked | None = None
        self._refusal: Refusal | None = None
        self._writer: ContentWriter | None = None
        self._asked_to_wait = False
        self._look_at_bytes = SPILL_BYTES_MIN
        """Without room: how much must be there before it is looked at again."""

    def begin(self, submission: Submission, flow: Flow) -> None:
        """The envelope is complete; its size is not known yet."""
        self._submission = submission
        self._flow = flow

    def add(self, data: bytes) -> None:
        if self._refusal is not None:
            return
        if self._writer is not None:
            self._write(self._writer, data)
            return
        self._chunks.append(data)
        self._held_bytes += len(data)
        room = self._budget.take(len(data))
        if self._held_bytes > INLINE_BYTES_MAX or (not room and self._held_bytes > self._look_at_bytes):
            self._spill()

    def end(self, submission: Submission, answered: Answered) -> None:
        """The content is whole: make it durable, then answer."""
        if self._refusal is not None:
            answered(self._refusal.reply, None, self._refusal)
        elif self._writer is not None:
            self._end_file(self._writer, submission, answered)
        else:
            chunks = self._chunks
            content = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            self._chunks = []

            def durable_or_refused(
                answer: Reply, message_id: MessageId | None, refusal: Refusal | None
            ) -> None:
                self._give_back()
                answered(answer, message_id, refusal)

            self._acceptance.accept(submission, content, durable_or_refused)

    def drop(self) -> None:
        """It was refused or cut: nothing is kept."""
        self._give_back()
        self._caught_up()
        if self._writer is not None:
            self._writer.abandon()
            self._writer = None

    def _give_back(self) -> None:
        self._chunks = []
        self._budget.give_back(self._held_bytes)
        self._held_bytes = 0

    def _spill(self) -> None:
        assert self._submission is not None and self._flow is not None, "content before its envelope"
        content = b"".join(self._chunks)
        self._chunks = [content]
        marked = self._acceptance.mark(self._submission, content)
        if isinstance(marked, Marked) and marked.inspection.header_end == len(content):
            if self._held_bytes <= INLINE_BYTES_MAX:
                # Not after every drop of a slow client: each look costs as much as there is.
                self._look_at_bytes = self._held_bytes + SPILL_BYTES_MIN
                return
            marked = HEADER_TOO_LARGE
        if isinstance(marked, Refusal):
            self._refusal = marked
            self._give_back()
            return
        self._marked = marked
        self._writer = self._files.create(marked.id, self._caught_up)
        self._writer.write(marked.trace)
        self._write(self._writer, content[marked.inspection.header_start :])
        self._give_back()

    def _write(self, writer: ContentWriter, data: bytes) -> None:
        if not writer.write(data) and not self._asked_to_wait and self._flow is not None:
            self._asked_to_wait = True
            self._flow.pause()

    def _caught_up(self) -> None:
        if self._asked_to_wait and self._flow is not None:
            self._asked_to_wait = False
            self._flow.resume()

    def _end_file(self, writer: ContentWriter, submission: Submission, answered: Answered) -> None:
        marked = self._marked
        assert marked is not None
        self._caught_up()
        # Its size was not known when the file was begun.
        refusal = self._acceptance.refuse(submission, marked.inspection)
        if refusal is not None:
            writer.abandon()
            answered(refusal.reply, None, refusal)
            return

        def finished(result: ContentFile | AppendFault) -> None:
            if isinstance(result, AppendFault):
                refusal = refuse_undurable(full=result.full)
                answered(refusal.reply, None, refusal)
            else:
                self._acceptance.accept_file(submission, marked, result, partial(recorded, result))

        def recorded(
            file: ContentFile, answer: Reply, message_id: MessageId | None, refusal: Refusal | None
        ) -> None:
            if message_id is None:
                self._files.remove([file.name], lambda _: None)
            answered(answer, message_id, refusal)

        writer.finish(finished)
