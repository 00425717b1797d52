"""The world of one seed: the relay on its machine, a crowd of clients, upstreams, and all that goes wrong.

A run goes in two parts. In the *storm* clients offer mail while processes die at any step, the power is cut,
the disk fails and fills, clocks jump, settings change, operators meddle and upstreams misbehave. Then it is
*calm*: nothing goes wrong any more, and everything that was acknowledged must come to its end.

What must hold is asked of the outside alone: of what clients were told, of what upstreams received, and of
the ledger read as an auditor would (`verdict`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec
from tests.simulation.clients import Books, Crowd
from tests.simulation.disk import Operation
from tests.simulation.hosts import Host, Taken
from tests.simulation.letters import Letters
from tests.simulation.machine import Death, Machine, Process
from tests.simulation.network import SimulatedNetwork
from tests.simulation.relay import INTAKE_PORT, READY_MAX, Life, SimulatedRelay, Trace, replaced
from tests.simulation.verdict import Verdict

from dispatch.mail.delivery import DeliveryState
from dispatch.outcomes.service import ControlService
from dispatch.policy.uncertain import UncertainPolicy
from dispatch.queue.requests import Flush, Order
from dispatch.queue.service import DeliveryService
from dispatch.settings import Relay as RelaySettings
from dispatch.settings import Settings
from dispatch.settings.model import Rule
from dispatch.store.changes import QueueFilter

MESSAGES_MIN = 50
DEATHS_MIN = 3
DISK_FAULTS_MIN = 1
CALM_S = 4 * 3600.0
"""Longer than anything may take once nothing goes wrong."""
CALM_DEATHS_MAX = 200
"""Poison kills a few times; a role that cannot start for as long as it is calm would be watched for hours."""
LOOK_S = 3.37
"""Not on a whole second, at which housekeeping always does something."""
NEEDLESS_ORDER_SHARE = 0.2
"""How often something is ordered where nothing has to be: an order stops the queue for a moment."""
ARCHIVE = "archive"
"""The relay that gets copies, and nothing else."""
ARCHIVE_PORT = 2504
RELAYS = (("first", 2501), ("second", 2502), ("third", 2503), (ARCHIVE, ARCHIVE_PORT))

Chaos = Callable[[], None]


class ArmedFault:
    """An error that waits for its operation."""

    def __init__(
        self, role: str, operations: tuple[Operation, ...], after: int, times: int, error: int | None
    ) -> None:
        """`error`: what the process is told; None: it dies there."""
        self.role = role
        self.operations = operations
        self.after = after
        self.times = times
        self.error = error


class World:
    """One seed."""

    def __init__(self, seed: int, folder: Path, tell: Trace | None = None) -> None:
        self.seed = seed
        self.tell = tell
        self.random = random = Random(seed)
        self.machine = Machine(random.getrandbits(32), folder)
        self.begun_s = self.machine.now_s
        self.machine.disk.fault = self._disk_fault
        self.outside = Process(self.machine)
        self.machine.processes.append(self.outside)
        self.network = SimulatedNetwork(Random(random.getrandbits(32)), tell=tell)
        self.books = Books()
        self.letters = Letters()
        self.taken = Taken(self.letters)
        loop = self.outside.loop
        self.hosts = [
            Host(loop, self.network, port, Random(random.getrandbits(32)), self.taken, random.random())
            for _, port in RELAYS
        ]
        self.crowd = Crowd(loop, self.network, INTAKE_PORT, Random(random.getrandbits(32)), self.books)
        settings = self.configured(_settings(random))
        self.relay = SimulatedRelay(
            self.machine, self.network, settings, Random(random.getrandbits(32)), self.letters, tell
        )
        self.relay.after_turn = self._after_turn
        self.relay.born = self._born
        self.verdict = Verdict(
            self.machine, self.books, self.taken, self.letters, self.relay.folders, ARCHIVE_PORT
        )
        self.verdict.alone = self.relay.alone
        self.rots = seed % 10 == 9
        """Whether bits of the logs rot in this world. What they held is lost then; but loudly."""
        self.loops = random.random() < 0.15
        """Whether processes die soon after nearly every start, for as long as it storms."""
        self.disk_faults = 0
        self.stormy = True
        self._armed: list[ArmedFault] = []

    def configured(self, settings: Settings) -> Settings:
        """What the relay works by; for worlds of another kind."""
        return settings

    # ------------------------------------------------------------ a run

    def run(self) -> None:
        """Storm, then calm. Raises `AssertionError` where something does not hold."""
        try:
            self._run()
        finally:
            self.relay.close()
            self.outside.bury()

    def _run(self) -> None:
        offered = 0
        troubles = self._troubles()
        while not self._stormed_enough(offered):
            count = self.random.choice((1, 3, 6, 12, 25))
            if offered >= MESSAGES_MIN:
                # Only what must go wrong is still awaited.
                count = 1
                self._fail_the_disk()
            self.crowd.offer(count)
            offered += count
            self.random.choice(troubles)()
            self._go_on()
        self._calm_down()

    def _stormed_enough(self, offered: int) -> bool:
        return (
            offered >= MESSAGES_MIN
            and len(self.relay.deaths) >= DEATHS_MIN
            and self.disk_faults >= DISK_FAULTS_MIN
        )

    def _go_on(self) -> None:
        """For a number of turns, or for a while."""
        turns = int(2 ** self.random.uniform(3, 9))
        until_s = self.machine.now_s + self.random.choice((0.01, 0.3, 2.0, 20.0, 120.0))
        while turns and self.relay.turn(until_s):
            turns -= 1

    def _calm_down(self) -> None:
        self._say("it is calm from now on")
        self.stormy = False
        self.machine.disk.capacity_bytes = None
        self._armed.clear()
        self.crowd.calm()
        self.network.trouble = 0.0
        for host in self.hosts:
            host.calm()
        for role in self.relay.roles.values():
            if role.life is not None:
                role.life.process.die_after(None)
        end_s = self.machine.now_s + CALM_S
        look_s = self.machine.now_s
        deaths = len(self.relay.deaths)
        while not self._all_is_done():
            assert self.machine.now_s < end_s, (
                f"not done after {CALM_S / 3600:.0f} hours: {self._what_waits()}"
            )
            died = self.relay.deaths[deaths:]
            assert len(died) <= CALM_DEATHS_MAX, f"{died[-1]} does not live though it is calm"
            look_s += LOOK_S
            self._wait(look_s)
            if self._something_is_held() or self.random.random() < NEEDLESS_ORDER_SHARE:
                self.relay.order(Order("release", QueueFilter(state=DeliveryState.HELD)))
        self._end()

    def _wait(self, until_s: float) -> None:
        while self.relay.turn(until_s):
            pass

    def _all_is_done(self) -> bool:
        return self.crowd.done and not self._what_waits()

    def _something_is_held(self) -> bool:
        delivery = self.relay.delivery
        return delivery is not None and any(
            count and state in (DeliveryState.HELD, DeliveryState.UNCERTAIN)
            for (_, state), count in delivery._store.counts().items()
        )

    def _what_waits(self) -> str:
        delivery, control = self.relay.delivery, self.relay.control
        if delivery is None or control is None or self.relay.intake is None:
            return "a process"
        scheduler = delivery.scheduler
        waiting = {
            "the clients": not self.crowd.done,
            "the log": scheduler.cursor < scheduler._s.mail.durable,
            "a live message": bool(scheduler.custody.live),
            "a work": any(True for _ in scheduler.works()),
            "something parked": any(
                count and state in (DeliveryState.WAITING, DeliveryState.HELD, DeliveryState.UNCERTAIN)
                for (_, state), count in delivery._store.counts().items()
            ),
            "the parked store": not scheduler._s.parking.idle,
            "an order": scheduler.frozen,
            "control": control._follower.cursor < control._durable(),
            "a notice": _notices(control),
        }
        return ", ".join(what for what, waits in waiting.items() if waits)

    def _end(self) -> None:
        """Everything has come to its end."""
        delivery, control = self.relay.delivery, self.relay.control
        assert delivery is not None and control is not None
        if self.rots:
            self.verdict.where_bits_rot(self.relay.events)
        else:
            self.verdict.at_the_end(delivery, control, self.relay.events)

    def summary(self) -> str:
        """What there was."""
        return (
            f"{len(self.books.offered)} messages, {len(self.relay.deaths)} deaths, {self.disk_faults} disk"
            f" faults, {self.relay.power_cuts} power cuts, {len(self.books.acknowledged)} acknowledged,"
            f" {self.machine.turns} turns, {(self.machine.now_s - self.begun_s) / 60:.0f} minutes"
        )

    # ------------------------------------------------------------ what goes wrong

    def _troubles(self) -> list[Chaos]:
        rot = [self._rot, self._rot] if self.rots else []
        return [
            *rot,
            self._kill,
            self._kill,
            self._die_at_a_step,
            self._die_at_a_step,
            self._die_at_an_operation,
            self._cut_power,
            self._fail_the_disk,
            self._fail_the_disk,
            self._fill_the_disk,
            self._jump,
            self._meddle,
            self._change_settings,
            self._change_hosts,
            self._come_and_go,
            self._come_and_go,
            lambda: None,
        ]

    def _role(self) -> str:
        return self.random.choice(("intake", "delivery", "delivery", "control"))

    def _kill(self) -> None:
        self.relay.kill(self._role())

    def _die_at_a_step(self) -> None:
        life = self.relay.roles[self._role()].life
        if life is not None:
            life.process.die_after(int(2 ** self.random.uniform(1, 9)))

    def _die_at_an_operation(self) -> None:
        operations: tuple[Operation, ...] = self.random.choice(
            (("write",), ("sync",), ("create", "rename", "remove", "sync_folder"))
        )
        self._arm(operations, 1, None)

    def _cut_power(self) -> None:
        self._say("the power is cut")
        self.relay.cut_power()
        self._armed.clear()
        self.machine.disk.fault = self._disk_fault

    def _fail_the_disk(self) -> None:
        operations, errors = self.random.choice(_DISK_ERRORS)
        self._arm(operations, self.random.choice((1, 1, 1, 3)), self.random.choice(errors))

    def _arm(self, operations: tuple[Operation, ...], times: int, error: int | None) -> None:
        self._armed.append(ArmedFault(self._role(), operations, self.random.randrange(6), times, error))

    def _fill_the_disk(self) -> None:
        disk = self.machine.disk
        if disk.capacity_bytes is None:
            disk.capacity_bytes = disk.used_bytes + self.random.choice((0, 3_000, 20_000))
            self._say(f"the disk has {disk.free_bytes} bytes left")
        else:
            disk.capacity_bytes = None
            self._say("the disk has room again")

    def _rot(self) -> None:
        """A byte of a log is another one: old segments and new ones, records and their frames."""
        disk = self.machine.disk
        paths = [path for path in disk.paths if path.endswith(".segment") and disk.content(path).strip(b"\0")]
        if not paths:
            return
        path = self.random.choice(paths)
        written = disk.content(path).rstrip(b"\0")
        offset = self.random.randrange(len(written))
        self._say(f"rot at {offset} of {path}")
        self.verdict.rots(path, offset)
        disk.damage(path, offset, bytes([written[offset] ^ self.random.randrange(1, 256)]))

    def _jump(self) -> None:
        jump_s = self.random.choice((-86_400.0, -3_600.0, -5.0, 5.0, 3_600.0))
        self._say(f"the wall clock jumps by {jump_s:.0f} s")
        self.machine.wall_offset_s += jump_s

    def _meddle(self) -> None:
        if self.random.random() < 0.2:
            self.relay.order(Flush())
            return
        wanted, which = QueueFilter(), self.random.random()
        if which < 0.3 and self.books.acknowledged:
            wanted = QueueFilter(id_prefix=self.random.choice(list(self.books.acknowledged)).hex())
        elif which < 0.6:
            wanted = QueueFilter(relay=self.random.choice(RELAYS)[0])
        verb = self.random.choice(("retry", "retry", "hold", "release", "release", "cancel"))
        self._say(f"an operator: {verb} {wanted}")
        self.relay.order(Order(verb, wanted))

    def _change_settings(self) -> None:
        if self.random.random() < 0.4:
            rules = _rules(self.random)
            self._say(f"other rules: {', '.join(rule.name for rule in rules)}")
            self.relay.change(msgspec.structs.replace(self.relay.settings, rules=rules))
            return
        concurrency = self.random.choice((1, 2, 5))
        self._say(f"max_concurrency = {concurrency}")
        self.relay.change(replaced(self.relay.settings, max_concurrency=concurrency))

    def _change_hosts(self) -> None:
        for host in self.hosts:
            host.trouble = self.random.choice((0.0, 0.1, 0.5, 1.0))

    def _come_and_go(self) -> None:
        """A host goes away for a while, sometimes all of them, one after the other."""
        host = self.random.choice(self.hosts)
        if host.away:
            self._say(f"host {host.port} is back")
            host.come_back()
        else:
            self._say(f"host {host.port} goes away")
            host.go_away()

    def _disk_fault(self, operation: Operation, path: str) -> OSError | None:
        for armed in self._armed:
            if operation not in armed.operations:
                continue
            life = self.relay.roles[armed.role].life
            if life is None or life.process is not self.machine.running:
                continue
            if armed.after:
                armed.after -= 1
                continue
            armed.times -= 1
            if not armed.times:
                self._armed.remove(armed)
            if armed.error is None:
                raise Death(f"at {operation} {path}")
            self.disk_faults += 1
            self._say(f"{armed.role} {operation} {path}: {errno.errorcode[armed.error]}")
            return OSError(armed.error, f"{os.strerror(armed.error)} (simulated)")
        return None

    # ------------------------------------------------------------ what is looked at

    def _born(self, role: str, life: Life) -> None:
        if role == "delivery" and not self.rots:
            self.verdict.look()
        if self.stormy and self.random.random() < (0.8 if self.loops else 0.2):
            life.process.die_after(int(2 ** self.random.uniform(1, 6 if self.loops else 9)))

    def _after_turn(self, role: str, life: Life) -> None:
        """Memory is bounded, and nothing waits in a line that nobody serves."""
        service = life.service
        if type(service) is DeliveryService:
            for lane in service.scheduler.lanes.values():
                assert len(lane.ready) <= READY_MAX
                assert lane.in_flight <= lane.window.max_concurrency

    def _say(self, what: str) -> None:
        if self.tell is not None:
            self.tell("world", what)


def _notices(control: ControlService) -> int:
    """How many are gathered or on their way."""
    store = control._follower.store  # type: ignore[attr-defined]
    if store is None:
        return 1
    tables = "dsn_pending", "dsn_outbox WHERE state = 'unsent'"
    counts = [store.notices._execute(f"SELECT count(*) FROM {table}").fetchone() for table in tables]
    return sum(count for (count,) in counts)


_DISK_ERRORS: tuple[tuple[tuple[Operation, ...], tuple[int, ...]], ...] = (
    (("sync",), (errno.EIO, errno.ENOSPC)),
    (("write",), (errno.EIO, errno.ENOSPC, errno.EDQUOT)),
    (("create", "open"), (errno.ENOSPC, errno.EMFILE, errno.EROFS)),
    (("sync_folder", "rename", "remove"), (errno.EIO,)),
)


def _settings(random: Random) -> Settings:
    settings = Settings()
    last: UncertainPolicy = random.choice(("hold", "hold", "give_up"))
    policies: tuple[UncertainPolicy, ...] = ("retry", "retry", last, "retry")
    relays = tuple(
        RelaySettings(
            name=name,
            host="upstream.test",
            port=port,
            default=name == RELAYS[0][0],
            helo_name="relay.test",
            max_concurrency=random.choice((1, 2, 5)),
            pipelining=random.choice(("auto", "auto", "off")),
            chunking=random.choice(("auto", "off")),
            idle_seconds=random.choice((0.0, 30.0)),
            messages_per_connection=random.choice((1, 3, 1000)),
            end_of_data_timeout_seconds=30.0,
            retry_delays_seconds=(2.0, 10.0),
            max_age_hours=random.choice((0.5, 96.0)),
            uncertain_policy=policy,
        )
        for (name, port), policy in zip(RELAYS, policies, strict=True)
    )
    replace = msgspec.structs.replace
    return replace(
        settings,
        listener=replace(
            settings.listener,
            server_name="relay.test",
            allowed_cidrs=("192.0.2.0/24",),
            max_message_bytes=1 << 20,
            connection_timeout_seconds=20.0,
            bare_newline=random.choice(("reject", "repair")),
        ),
        spool=replace(
            settings.spool,
            disk_warn_mb=0,
            disk_throttle_mb=0,
            disk_suspend_mb=0,
            retry_delays_seconds=(2.0, 10.0),
        ),
        bounce=replace(
            settings.bounce,
            gather_seconds=random.choice((0.0, 1.0, 30.0)),
            delay_notice_hours=random.choice((None, 0.001, 0.05)),
        ),
        queue=replace(settings.queue, breaker_failures=3, breaker_open_seconds=2.0),
        relays=relays,
        rules=_rules(random),
    )


def _rules(random: Random) -> tuple[Rule, ...]:
    """Most of them, in any order."""
    rules = [
        Rule(name="dropped", recipient=("*7r0@example.org",), action="discard", copy_to=ARCHIVE),
        Rule(
            name="split",
            recipient=("*r1@example.org", "*r4@example.org"),
            relays=("second", "first"),
            copy_to=ARCHIVE,
        ),
        Rule(
            name="spread",
            recipient=("*r2@example.org", "*3r0@example.org"),
            relays=("first", "second", "third"),
            weights=(2, 1, 1),
        ),
        Rule(name="by-sender", sender=("*5@example.org",), relays=("third", "second")),
        Rule(name="later", recipient=("*91r0@example.org",), action="hold", copy_to=ARCHIVE),
    ]
    return tuple(random.sample(rules, random.choice((3, 5, 5, 5))))
