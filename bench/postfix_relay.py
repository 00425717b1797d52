"""Postfix as a contestant: Debian's package, an instance of its own, set up for relaying as an expert would.

`SETTINGS` has what makes it fast on this kind of load, each with its reason; everything else is Debian's
default. Settings that risk mail are left alone (Postfix has none that skips its fsync anyway), and so are
those that gained nothing here.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from bench.contestants import free_port, wait_for_port
from bench.processes import Member, children_of

PROGRAMS = Path("/usr/sbin")
SETTINGS = {
    # The client is not slowed down when mail comes in faster than it leaves.
    "in_flow_delay": "0",
    # As many processes as the widest load has sessions, and no limit for one client.
    "default_process_limit": "200",
    # A process is not replaced after a hundred messages: executing a new one costs as much as several.
    "max_use": "100000",
    "smtpd_client_connection_count_limit": "0",
    "smtpd_client_connection_rate_limit": "0",
    "smtpd_client_message_rate_limit": "0",
    # From the first message on. On two cores 4 and 20 were as good; 100 gave a lower rate for more CPU.
    "initial_destination_concurrency": "8",
    "default_destination_concurrency_limit": "8",
    # Connections are kept for the next message.
    "smtp_connection_cache_on_demand": "yes",
    "smtp_connection_cache_destinations": "127.0.0.1",
}
_TLS_PROXY = "tlsproxy unix - - n - 0 tlsproxy\n"
"""A service that Debian leaves out: with `smtp_tls_connection_reuse` it holds connections that have TLS."""


class Postfix:
    name = "Postfix"

    def __init__(
        self, folder: Path, upstream_port: int, *, settings: Mapping[str, str] | None = None
    ) -> None:
        """`settings` are added to `SETTINGS`."""
        self._folder = folder / "postfix"
        self._upstream_port = upstream_port
        self._settings = SETTINGS | dict(settings or {})
        self.port = free_port()
        for name in ("etc", "spool", "data"):
            (self._folder / name).mkdir(parents=True)
        # Its processes are users of their own, and must reach the instance through the temporary folder.
        folder.chmod(0o755)
        shutil.chown(self._folder / "data", "postfix")
        self._configure()

    def _configure(self) -> None:
        etc = Path("/etc/postfix")
        for path in (*etc.glob("dynamicmaps*"), etc / "postfix-files"):
            if path.is_file():
                shutil.copy(path, self._folder / "etc")
        services = (etc / "master.cf").read_text()
        listening = services.replace("\nsmtp      inet  n", f"\n127.0.0.1:{self.port}      inet  n")
        assert listening != services, "Debian's master.cf has no smtp service in the form that is known here"
        (self._folder / "etc/master.cf").write_text(listening + _TLS_PROXY)
        settings = {
            "compatibility_level": "3.6",
            "queue_directory": f"{self._folder}/spool",
            "data_directory": f"{self._folder}/data",
            "command_directory": str(PROGRAMS),
            "daemon_directory": "/usr/lib/postfix/sbin",
            "mail_owner": "postfix",
            "myhostname": "postfix.test",
            "mydestination": "",
            "mynetworks": "127.0.0.0/8",
            "inet_interfaces": "127.0.0.1",
            "inet_protocols": "ipv4",
            "relayhost": f"[127.0.0.1]:{self._upstream_port}",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            "maillog_file": f"{self._folder}/log",
            "maillog_file_prefixes": str(self._folder),
        } | self._settings
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (self._folder / "etc/main.cf").write_text("".join(lines))

    def start(self) -> None:
        self._do("start")
        wait_for_port(self.port)
        self._master = int((self._folder / "spool/pid/master.pid").read_text())

    def members(self) -> list[Member]:
        children = [Member(child, _program_of(child)) for child in children_of(self._master)]
        return [Member(self._master, "master"), *children]

    def caught_up(self) -> bool:
        """It writes its log as it goes."""
        return True

    def stop(self) -> None:
        self._do("stop")

    def _do(self, verb: str) -> None:
        command = [str(PROGRAMS / "postfix"), "-c", str(self._folder / "etc"), verb]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            log = self._folder / "log"
            raise OSError(f"postfix {verb}: {done.stderr} {log.read_text()[-2000:] if log.exists() else ''}")


def _program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended"
