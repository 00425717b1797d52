"""What must hold, judged from the outside: clients' books, what upstreams took, and the ledger as an auditor.

`look` is asked whenever delivery works again, `at_the_end` once nothing is on its way. The numbers are the
invariants of docs/architecture.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.simulation.audit import TOLD_STATES, Audit
from tests.simulation.clients import Books
from tests.simulation.hosts import Taken
from tests.simulation.letters import Letters, Said
from tests.simulation.machine import Machine
from tests.simulation.relay import IN_HAND_SLOTS, TORN, poisonous

from dispatch.app.folders import CONTENT, LEDGER, MAIL, Folders
from dispatch.mail.delivery import DeliveryState
from dispatch.mail.ids import MessageId, spool_form
from dispatch.outcomes.service import ControlService
from dispatch.ports import Lsn
from dispatch.queue.in_hand import DEATHS_ALONE_MAX
from dispatch.queue.replay import Records
from dispatch.queue.service import DeliveryService
from dispatch.spool.reader import SegmentReader
from dispatch.spool.records import Accepted

Key = tuple[MessageId, int]

ALARMS = frozenset(
    {
        "mail_corrupt",
        "mail_missing",
        "mail_unreadable",
        "ledger_corrupt",
        "ledger_incomplete",
        "log_damaged",
        "mark_disbelieved",
    }
)
"""Events by which the relay says that it has lost something."""


class Verdict:
    def __init__(
        self,
        machine: Machine,
        books: Books,
        taken: Taken,
        letters: Letters,
        folders: Folders,
        archive_port: int,
    ) -> None:
        """`archive_port`: of the upstream that is for copies alone."""
        self._machine = machine
        self._books = books
        self._taken = taken
        self._letters = letters
        self._folders = folders
        self._archive_port = archive_port
        self.alone: Counter[MessageId] = Counter()
        """How often a message was alone under way when delivery died; three times look like poison."""
        self._unwitnessed = False
        """Bits rotted in the mail log where, after a power cut, no mark says that anything was written."""

    def look(self) -> Audit:
        """What must hold at any time."""
        audit = self._audit()
        times = self._times(audit)
        for key, count in times.items():
            excuses = audit.uncertain[key] + audit.power[key]
            assert count <= 1 + excuses, f"{_name(key)} was taken {count} times, with {excuses} excuses (4)"
            # By other rules, before a power cut took that out of the ledger: it is called doubtful first.
            discarded = audit.states[key] is DeliveryState.DISCARDED and not audit.power[key]
            assert not discarded, f"{_name(key)} was discarded, and taken (3)"
        for key, count in audit.delivered.items():
            assert count == 1, f"{_name(key)} was delivered {count} times (3)"
            assert times[key], f"{_name(key)} is called delivered, and nobody has it (1)"
        for key, ports in self._ports(audit).items():
            # A power cut takes out where it was tried; of that, it is enough that it is called doubtful.
            assert len(ports) == 1 or audit.power[key], f"{_name(key)} was taken at {sorted(ports)} (4)"
        self._nobody_was_uninvited()
        self._taken.check()
        return audit

    def at_the_end(self, delivery: DeliveryService, control: ControlService, reported: list[str]) -> None:
        """What must hold when everything has come to its end."""
        audit = self.look()
        false = ALARMS.intersection(reported)
        assert not false, f"{', '.join(sorted(false))}: but nothing was damaged"
        self._nothing_is_lost(audit)
        self._everything_has_its_end(audit)
        self._nothing_is_left(audit, delivery)
        self._history_agrees(audit, control)
        self._senders_know(audit)

    def rots(self, path: str, offset: int) -> None:
        """A byte of a segment is about to be another one."""
        folder, _, name = path.rpartition("/")
        if folder == MAIL:
            lsn = int(name.removesuffix(".segment").rpartition("-")[2], 16) + offset
            self._unwitnessed |= lsn >= self._machine.mark(str(self._folders.mail_durable)).load()

    def where_bits_rot(self, reported: list[str]) -> None:
        """What the disk lost cannot be delivered; but that it was lost is said, and nothing is made up."""
        self._nobody_was_uninvited()
        self._taken.check()
        taken = {taking.message_id for taking in self._taken.takings}
        lost = self._books.acknowledged.keys() - taken
        # The last batch, where a power cut has set the mark back, cannot be told from a torn one; without its
        # head, not even from none.
        alarms = (ALARMS | {TORN}).intersection(reported)
        if lost and not alarms and not self._unwitnessed:
            # What rotted was not read again, or held nothing: the ledger says what became of the others.
            records = Records(self._ledger(), Lsn(0))
            known = {record.message.id for _, record in records if isinstance(record, Accepted)}
            silent = lost - known
            assert not silent or records.damaged, f"{len(silent)} messages are lost, and nobody said anything"

    def _audit(self) -> Audit:
        return Audit(self._ledger())

    def _ledger(self) -> SegmentReader:
        """As a bystander reads it."""
        mark = self._machine.mark(str(self._folders.ledger_durable))
        return SegmentReader(self._machine.disk.process(), LEDGER, mark=mark)

    def _times(self, audit: Audit) -> Counter[Key]:
        """How often each recipient's mail was taken by an upstream."""
        return Counter(key for key, _ in self._arrivals(audit))

    def _ports(self, audit: Audit) -> dict[Key, set[int]]:
        """By which upstreams."""
        ports: dict[Key, set[int]] = {}
        for key, port in self._arrivals(audit):
            ports.setdefault(key, set()).add(port)
        return ports

    def _arrivals(self, audit: Audit) -> Iterator[tuple[Key, int]]:
        for taking in self._taken.takings:
            message = audit.messages.get(taking.message_id)
            if message is None:
                # A power cut took its acceptance out of the ledger; it comes again from the mail log.
                continue
            archived = taking.port == self._archive_port
            indexes = {
                recipient.address: index
                for index, recipient in enumerate(message.envelope.recipients)
                if bool(recipient.copy_to) is archived
            }
            for address in taking.recipients:
                if archived and address not in indexes:
                    # A power cut took its acceptance out of the ledger, and the rules have changed since.
                    continue
                yield (message.id, indexes[address]), taking.port

    def _nobody_was_uninvited(self) -> None:
        """Invariant 2: what was refused or cut is never delivered; the unanswered once or not at all."""
        for taking in self._taken.takings:
            if taking.token is None:
                continue
            invitation = self._books.invitation(taking.message_id, taking.token, taking.recipients)
            assert invitation != "uninvited", f"{taking} was not invited (2)"

    def _nothing_is_lost(self, audit: Audit) -> None:
        for message_id, accepted in self._books.acknowledged.items():
            message = audit.messages.get(message_id)
            assert message is not None, f"{spool_form(message_id)} was acknowledged and is gone (1)"
            everybody = message.envelope.recipients
            recipients = [recipient.address for recipient in everybody if not recipient.copy_to]
            copied = [recipient.address for recipient in everybody if recipient.copy_to]
            assert len(set(copied)) == len(copied) and set(copied) <= set(recipients), "whose copies?"
            assert sorted(recipients) == sorted(accepted.recipients), (
                "not the recipients that were accepted (1)"
            )

    def _everything_has_its_end(self, audit: Audit) -> None:
        for key, state in audit.states.items():
            if state is DeliveryState.QUARANTINED:
                blamed = poisonous(key[0]) or self.alone[key[0]] >= DEATHS_ALONE_MAX
                assert blamed, f"{_name(key)} is innocent, and in quarantine (10)"
            else:
                assert state.final, f"{_name(key)} ends {state} (3)"

    def _nothing_is_left(self, audit: Audit, delivery: DeliveryService) -> None:
        scheduler, store = delivery.scheduler, delivery._store
        assert not scheduler.custody.live, "the log is held on to"
        assert not scheduler.frozen
        assert scheduler.trial is None
        assert all(lane.in_flight == 0 and not lane.claiming for lane in scheduler.lanes.values())
        assert scheduler._s.in_hand.room == IN_HAND_SLOTS
        parking = scheduler._s.parking
        assert parking.idle and parking.pending_bytes == 0
        kept = {}
        for message_id in audit.messages:
            parked = store.get(message_id, content=False)
            for row in parked.deliveries if parked else ():
                kept[message_id, row.index] = row.state
        stays = {
            key: state
            for key, state in audit.states.items()
            if state.failed or state is DeliveryState.QUARANTINED
        }
        assert kept == stays, "parked is what failed, and nothing else"
        files = {audit.messages[message_id].content_file for message_id, _ in kept}
        named = {file.name for file in files if file is not None}
        present = {path.rpartition("/")[2] for path in self._machine.disk.paths if path.startswith(CONTENT)}
        assert named <= present, f"content files are gone: {named - present} (1)"

    def _history_agrees(self, audit: Audit, control: ControlService) -> None:
        """Invariant 12: its tables say what the ledger says, once."""
        store = control._follower.store  # type: ignore[attr-defined]
        for message_id, message in audit.messages.items():
            number = store.number_of(message_id)
            assert number is not None, f"{spool_form(message_id)} is not in history (12)"
            states = [standing.state for standing in store.standing_of(number)]
            told = [audit.states[message_id, index] for index in range(len(message.envelope.recipients))]
            assert states == told, (
                f"history says {states} of {spool_form(message_id)}, the ledger {told} (12)"
            )

    def _senders_know(self, audit: Audit) -> None:
        """Of each failure, the sender of the mail is told once."""
        notices = [message for message in audit.messages.values() if message.origin.source == "internal"]
        keys = Counter(message.idempotency_key or "" for message in notices)
        for key, count in keys.items():
            assert count == 1, f"notice {key} was accepted {count} times (4)"
        told = Counter(said for key in keys for said in self._letters.said(key))
        wanted: Counter[str] = Counter()
        allowed: Counter[str] = Counter()
        for (message_id, index), state in audit.states.items():
            envelope = audit.messages[message_id].envelope
            recipient = envelope.recipients[index]
            if envelope.reverse_path and not recipient.copy_to:
                address = recipient.address
                wanted[address] += state in TOLD_STATES
                allowed[address] += audit.failed[message_id, index]
        for address in wanted:
            count = told[Said(address, "failed")]
            assert wanted[address] <= count <= allowed[address], (
                f"{address} failed {wanted[address]} to {allowed[address]} times, and {count} were told"
            )


def _name(key: Key) -> str:
    return f"{spool_form(key[0])} recipient {key[1]}"
