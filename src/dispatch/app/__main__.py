"""What the supervisor executes: `python -m dispatch.app ROLE DATA [SOURCES]`."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from pathlib import Path
from typing import cast

from dispatch.app.folders import Folders
from dispatch.observe import Reporter
from dispatch.operations.logs import reporter
from dispatch.runtime.child import ChildContext, ChildFault, Service, Start, child_main
from dispatch.runtime.locks import FolderLock, lock_folder
from dispatch.security.role_keys import role_key
from dispatch.security.vault import Vault, VaultFault
from dispatch.settings import Role, Settings, SettingsUnreadable
from dispatch.settings.snapshot import NoSnapshot, load
from dispatch.store.sqlite import NewerSchema, StoreFault

LOCK_WAIT_S = 10.0
"""How long a process of an older set, which has lost its supervisor, may take to finish."""


def _start_of(role: str, sources: list[str], report: Reporter) -> Start:
    held: list[FolderLock] = []
    """As long as somebody holds the function that is returned: until the process ends."""

    async def start(context: ChildContext) -> Service:
        from dispatch.app.machine import this_machine

        held.append(await asyncio.to_thread(lock_folder, Folders(context.data).lock_of(role), LOCK_WAIT_S))
        from dispatch.app.watch import SettingsWatch

        machine = this_machine(context.data)
        applied = partial(machine.mark, machine.folders.applied(role), True)
        seal = _seal_of(role, context.secret)
        watch = SettingsWatch(machine.folders.settings, cast("Role", role), report, seal, applied)
        if role == "intake":
            from dispatch.app.intake import start_intake

            return await start_intake(machine, watch, context.listeners, report)
        if role == "delivery":
            from dispatch.app.delivery import start_delivery
            from dispatch.app.token_keeping import tokens_at_start

            tokens = tokens_at_start(machine.folders.settings, seal, report)
            return await start_delivery(machine, watch, report, tokens)
        from dispatch.app.bounces import Bouncing
        from dispatch.app.configuring import Configuring
        from dispatch.app.control import start_control
        from dispatch.app.publishing import Publisher

        publisher = Publisher(machine.folders, sources, context.secret, report)
        publisher.remember_in_force()
        configuring = Configuring(publisher, report)
        bouncing = Bouncing(machine, watch.settings, report)
        return await start_control(machine, watch, publisher.reload, report, configuring, bouncing)

    async def start_or_say_why(context: ChildContext) -> Service:
        try:
            return await start(context)
        except NoSnapshot as error:
            why = f"no settings ({error}): `dispatch serve` publishes them at its start"
            raise ChildFault(os.EX_CONFIG, why) from error
        except SettingsUnreadable as error:
            raise ChildFault(os.EX_IOERR, str(error)) from error
        except NewerSchema as error:
            raise ChildFault(os.EX_CONFIG, str(error)) from error
        except StoreFault as error:
            raise ChildFault(os.EX_IOERR, str(error)) from error
        except VaultFault as error:
            raise ChildFault(os.EX_CONFIG, str(error)) from error
        except PermissionError as error:
            why = f"{error}: start the relay as the user to whom the data belongs, or make it this user's"
            raise ChildFault(os.EX_NOPERM, why) from error

    return start_or_say_why


def _seal_of(role: str, secret: bytes) -> Vault:
    """What opens the role's snapshot: control is born with the vault's key, the others with their own."""
    return Vault(role_key(secret, role) if role == "control" else secret)


def main() -> int:
    role, data, *sources = sys.argv[1:]
    settings = Settings()
    try:
        _, settings = load(Folders(Path(data)).settings, cast("Role", role))
    except (NoSnapshot, PermissionError):
        # Said, with its reason, when the service starts; until then there is a log all the same.
        pass
    except SettingsUnreadable as error:
        # Not to be lived with: the log of this life would be another one than was asked for.
        default = reporter(role, settings.logging.level, settings.logging.format)
        default("child_fatal", role=role, code=os.EX_IOERR, why=str(error))
        return os.EX_IOERR
    report = reporter(role, settings.logging.level, settings.logging.format)
    return child_main(role, _start_of(role, sources, report), report)


if __name__ == "__main__":
    sys.exit(main())
