"""The whole relay on a simulated machine: the three processes as they ship, under a small supervisor.

Each process is composed by `dispatch.app` and by nothing else; what it stands on is simulated: clock, chance,
threads, disk with the databases on it, network, marks, and its neighbours. A role has many lives. One that
ends, by death or because it could not start, is begun again after a while, as the supervisor does.

What makes the product's numbers large is made small here (`SMALL`), so that few messages meet every limit.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any, NoReturn, Protocol

import msgspec
from tests.simulation.letters import Carrier, Letters
from tests.simulation.loop import SimulatedMark
from tests.simulation.machine import Death, Machine, Process
from tests.simulation.network import Names, SimulatedNetwork
from tests.simulation.vfs import SimulatedVfs

import dispatch.app.lanes
import dispatch.store.sqlite
from dispatch.app.bounces import Bouncing
from dispatch.app.control import start_control
from dispatch.app.delivery import start_delivery
from dispatch.app.folders import Folders
from dispatch.app.intake import start_intake
from dispatch.app.machine import Machine as Standing
from dispatch.app.machine import SegmentFiles
from dispatch.intake.service import IntakeService
from dispatch.mail.ids import MessageId
from dispatch.mail.report import Report
from dispatch.observe import Reporter
from dispatch.outcomes.service import ControlService
from dispatch.policy.suppression import SuppressionList
from dispatch.ports import Transaction
from dispatch.queue.service import DeliveryService
from dispatch.relays.smtp import SmtpRelay
from dispatch.settings import Settings
from dispatch.store.sqlite import StoreFault

ROLES = ("intake", "delivery", "control")
INTAKE_PORT = 25
READY_MAX = 12
IN_HAND_SLOTS = 64
SEGMENT_FILES = SegmentFiles(16 << 10, 2)
SMALL = {
    "IN_HAND_SLOTS": IN_HAND_SLOTS,
    "INLINE_BYTES_MAX": 6 << 10,
    "SPILL_BYTES_MIN": 1 << 10,
    "CHUNK_BYTES": 2 << 10,
    "BEHIND_BYTES_MAX": 8 << 10,
    "READY_BYTES_MIN": 16 << 10,
    "READ_BYTES": 16 << 10,
    "LARGE_CONTENT_BYTES": 4 << 10,
    "BLOCK_BYTES": 3 << 10,
    "CHECKPOINT_PAGES": 24,
    "READY_MAX": READY_MAX,
    # Of notices: here the other process never answers at once (`letters`).
    "RETRY_FIRST_S": 1.0,
    "RETRY_LONGEST_S": 5.0,
}
"""Constants of the product by their names, and what stands in for them."""


@cache
def shrink() -> None:
    """Put `SMALL` in force in every module of the product, for as long as this program runs."""
    for name, module in list(sys.modules.items()):
        if name.startswith("dispatch."):
            for constant, value in SMALL.items():
                if hasattr(module, constant):
                    setattr(module, constant, value)
    dispatch.app.lanes.SmtpRelay = MortalRelay  # type: ignore[assignment,misc]
    # Read once, and not with every life.
    dispatch.store.sqlite.migrations = cache(dispatch.store.sqlite.migrations)


POISON = "poison"
TORN = "log_recovered with torn bytes"


def poisonous(message_id: MessageId) -> bool:
    """Whoever tries this message dies: about one in five hundred."""
    return message_id[15] == 7 and message_id[14] < 128


class MortalRelay(SmtpRelay):
    """Dies of poison."""

    def start(self, transaction: Transaction, done: Callable[[Transaction, Report], None]) -> None:
        if poisonous(transaction.message.id):
            raise Death(POISON)
        super().start(transaction, done)


class Trace(Protocol):
    def __call__(self, who: str, what: str) -> None: ...


class Watch:
    """`dispatch.app.watch.Watch`, as one life of one role sees the settings."""

    def __init__(self, relay: SimulatedRelay) -> None:
        self._relay = relay
        self._number = relay.settings_number
        self.settings = relay.settings
        self.suppressed = SuppressionList()

    def changed(self) -> bool:
        return self._number != self._relay.settings_number

    def take(self) -> Settings | None:
        self._number, self.settings = self._relay.settings_number, self._relay.settings
        return self.settings


class Neighbours:
    """`dispatch.app.machine.Neighbours` of one life: hints get lost now and then."""

    def __init__(self, relay: SimulatedRelay, role: Role) -> None:
        self._relay = relay
        self._role = role

    def hint(self, role: str) -> Callable[[], None]:
        return partial(self._hint, self._relay.roles[role])

    def _hint(self, role: Role) -> None:
        life = role.life
        if life is not None and life.heard is not None and self._relay.random.random() > 0.1:
            life.process.loop.call_soon(life.heard)

    def hear(self, role: str, callback: Callable[[], None]) -> Closing:
        life = self._role.life
        assert life is not None and role == self._role.name
        life.heard = callback
        return Closing()

    def serve(self, role: str, requests: object, handle: Handle, report: Reporter) -> Closing:
        life = self._role.life
        assert life is not None and role == self._role.name
        life.handle = handle
        return Closing()

    def ask(self, role: str, request: object, answers: object) -> NoReturn:
        raise AssertionError("no process asks another one here: no relay has access tokens")


Handle = Callable[[Any], Awaitable[object]]


class Closing:
    """What is closed by the end of the process; its `close` is called and awaited."""

    async def start(self) -> None:
        """It serves already."""

    def close(self) -> Awaitable[None]:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class GuardedMark:
    """`ports.Mark`, as a process sees it: dead ones move it no more."""

    def __init__(self, mark: SimulatedMark, process: Process) -> None:
        self._mark = mark
        self._process = process

    def load(self) -> int:
        return self._mark.load()

    def store(self, value: int) -> None:
        assert self._process.disk.alive, "a mark moved by a process that is dead"
        self._mark.store(value)


Service = IntakeService | DeliveryService | ControlService


class Life:
    """One life of one role."""

    def __init__(self, relay: SimulatedRelay, role: Role) -> None:
        self.process = Process(relay.machine)
        self.vfs = SimulatedVfs(
            self.process.disk, Random(relay.random.getrandbits(32)), wall=self.process.wall
        )
        self.heard: Callable[[], None] | None = None
        self.handle: Handle | None = None
        self.service: Service | None = None
        self.starting: asyncio.Task[Service] | None = None
        self._relay = relay
        self._role = role

    def begin(self) -> None:
        relay, process = self._relay, self.process
        loop = process.loop
        relay.machine.processes.append(process)
        standing = Standing(
            clock=process,
            chance=process.chance,
            disk=process.disk,
            threads=process,
            network=relay.network.of(loop),
            resolver=lambda servers, dnssec_from: Names(),
            soon=loop.call_soon,
            mark=lambda path, _: GuardedMark(relay.machine.mark(str(path)), process),
            neighbours=Neighbours(relay, self._role),
            folders=relay.folders,
            start_id=str(relay.machine.starts),
            vfs=self.vfs.name,
            segment_files=SEGMENT_FILES,
        )
        self.starting = loop.create_task(self._start(standing))

    async def _start(self, standing: Standing) -> Service:
        relay, watch = self._relay, Watch(self._relay)
        match self._role.name:
            case "intake":
                intake = await start_intake(standing, watch, (), relay.report)
                relay.network.listen(self.process.loop, INTAKE_PORT, intake.listener.accept)
                self.service = intake
            case "delivery":
                self.service = await start_delivery(standing, watch, relay.report)
            case _:
                post = Carrier(relay.door, standing.disk, Random(relay.random.getrandbits(32)), relay.letters)
                bouncing = Bouncing(standing, watch.settings, relay.report, post)
                self.service = await start_control(
                    standing, watch, lambda: relay.settings, relay.report, bouncing=bouncing
                )
        return self.service

    def bury(self) -> None:
        """The process is dead. Its objects must do nothing any more."""
        self._relay.network.process_died(self.process.loop)
        self.process.disk.kill()
        self.vfs.unregister()
        match self.service:
            case DeliveryService():
                self.service.scheduler.stopping = True
                self.service.scheduler.custody.close()
        self.process.bury()


class Role:
    """A role over all its lives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.life: Life | None = None
        self.lives = 0
        self.begins_s = 0.0
        """When the next life begins, where there is none."""


class SimulatedRelay:
    """The three roles under their supervisor."""

    def __init__(
        self,
        machine: Machine,
        network: SimulatedNetwork,
        settings: Settings,
        random: Random,
        letters: Letters,
        tell: Trace | None = None,
    ) -> None:
        shrink()
        self.machine = machine
        self.network = network
        self.settings = settings
        self.settings_number = 1
        self.random = random
        self.letters = letters
        self.tell = tell
        self.folders = Folders(Path())
        # Mapped memory that outlives the process: a real file, which no simulated process writes otherwise.
        self.folders.in_hand = machine.folder / "in-hand"
        self.roles = {name: Role(name) for name in ROLES}
        self._absent = list(self.roles.values())
        self._living: dict[Process, Role] = {}
        self.events: list[str] = []
        """What was reported, by all."""
        self.deaths: list[str] = []
        self.alone: Counter[MessageId] = Counter()
        """How often a message was alone under way when delivery died."""
        self.power_cuts = 0
        self.after_turn: Callable[[str, Life], None] = lambda role, life: None
        self.born: Callable[[str, Life], None] = lambda role, life: None
        """A role works again."""

    @property
    def intake(self) -> IntakeService | None:
        return self._service("intake")

    @property
    def delivery(self) -> DeliveryService | None:
        return self._service("delivery")

    @property
    def control(self) -> ControlService | None:
        return self._service("control")

    def _service(self, name: str) -> Any:
        life = self.roles[name].life
        return life.service if life is not None else None

    def report(self, event: str, /, **fields: object) -> None:
        self.events.append(event)
        if fields.get("torn_bytes"):
            self.events.append(TORN)
        if self.tell is not None:
            self.tell("reports", f"{event} {' '.join(f'{key}={value}' for key, value in fields.items())}")

    def door(self, role: str) -> tuple[asyncio.AbstractEventLoop, Handle] | None:
        """Where another process can ask this one."""
        life = self.roles[role].life
        return None if life is None or life.handle is None else (life.process.loop, life.handle)

    # ------------------------------------------------------------ time

    def turn(self, until_s: float) -> bool:
        """One round of one process; False where nothing is to be done until then."""
        machine = self.machine
        waking_s = until_s
        for role in self._absent:
            if role.begins_s <= machine.now_s:
                self._begin(role)
                return True
            waking_s = min(waking_s, role.begins_s)
        process = machine.turn(waking_s)
        if process is None:
            return machine.now_s < until_s
        role = self._living.get(process)
        if role is not None and role.life is not None:
            self._after_turn(role, role.life)
        elif process.loop.faults:
            self._raise_faults(process)
        return True

    def _after_turn(self, role: Role, life: Life) -> None:
        if life.process.dead is not None or not life.process.disk.alive:
            self._ended(role, f"dies: {life.process.dead}")
            return
        if life.process.loop.faults:
            self._raise_faults(life.process)
        if life.starting is not None and life.starting.done():
            started, life.starting = life.starting, None
            error = started.exception()
            if error is None:
                self.born(role.name, life)
            elif isinstance(error, OSError | StoreFault):
                self._ended(role, f"cannot start: {error!r}")
                return
            else:
                raise error
        self.after_turn(role.name, life)

    def _raise_faults(self, process: Process) -> None:
        """What a callback lets escape ends a process (`runtime.child`), and is a bug; but errors of the
        machine are reported, and life goes on."""
        faults = process.loop.faults
        while faults:
            fault = faults.pop(0)
            if not isinstance(fault, OSError):
                raise fault
            self.report("unhandled", why=repr(fault))

    def _begin(self, role: Role) -> None:
        role.lives += 1
        role.life = Life(self, role)
        self._absent.remove(role)
        self._living[role.life.process] = role
        if self.tell is not None:
            self.tell(role.name, f"begins life {role.lives}")
        role.life.begin()

    # ------------------------------------------------------------ death

    def kill(self, name: str) -> None:
        """`kill -9`."""
        role = self.roles[name]
        if role.life is not None:
            self._ended(role, "is killed")

    def _ended(self, role: Role, why: str) -> None:
        assert role.life is not None
        if self.tell is not None:
            self.tell(role.name, why)
        self.deaths.append(role.name)
        if isinstance(role.life.service, DeliveryService):
            in_hand = {work.message.id for work in role.life.service.scheduler.under_way}
            if len(in_hand) == 1:
                self.alone.update(in_hand)
        role.life.bury()
        del self._living[role.life.process]
        self._absent.append(role)
        role.life = None
        role.begins_s = self.machine.now_s + self.random.choice((0.0, 0.1, 0.1, 1.0, 5.0))

    def cut_power(self) -> None:
        """Everything at once, and the disk keeps what it pleases of what was not synced."""
        for role in self.roles.values():
            if role.life is not None:
                self._ended(role, "loses power")
        self.machine.cut_power()
        self.power_cuts += 1
        if self.random.random() < 0.5:
            self.folders.in_hand.unlink(missing_ok=True)

    def close(self) -> None:
        """The world ends; nothing of it stays registered anywhere."""
        for role in self.roles.values():
            if role.life is not None:
                role.life.bury()
                role.life = None

    # ------------------------------------------------------------ the operator

    def change(self, settings: Settings) -> None:
        """New settings were published."""
        self.settings = settings
        self.settings_number += 1

    def order(self, request: object) -> None:
        """An operator asks delivery for something; the answer is not waited for."""
        door = self.door("delivery")
        if door is not None:
            loop, handle = door
            loop.create_task(self._ask(handle, request))

    async def _ask(self, handle: Handle, request: object) -> None:
        try:
            await handle(request)
        except StoreFault:
            # The store could not answer: told to the operator, and no fault of the queue.
            return


def replaced(settings: Settings, **relay: object) -> Settings:
    """The settings with something changed in every relay."""
    relays = tuple(msgspec.structs.replace(each, **relay) for each in settings.relays)
    return msgspec.structs.replace(settings, relays=relays)
