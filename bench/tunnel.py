"""TLS for a load that speaks none: Debian's `stunnel4` on either side of a relay.

Postfix's `smtp-source` and `smtp-sink` speak in clear. stunnel says EHLO and STARTTLS for the one and offers
it for the other; everything behind that is between them and the relay. It is C, has a thread for each
connection, and costs the same beside either relay, on cores that they share; its CPU is not theirs.

Every connection to the relay has a whole handshake: whoever sends one message and leaves seldom resumes. What
the relay resumes on its way out is its own affair. One cipher for all, because servers choose by different
tastes, and ciphers have different prices.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from bench.contestants import free_port, wait_for_port
from dispatch.security.certificates import generate

STUNNEL = "/usr/bin/stunnel4"
CIPHER = "TLS_AES_256_GCM_SHA384"
_CONFIGURATION = """\
foreground = yes
syslog = no
debug = crit
pid =
ciphersuites = {cipher}
sslVersionMin = TLSv1.3
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1

[source]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{relay_port}
protocol = smtp
sessionResume = no

[sink]
accept = 127.0.0.1:{upstream_port}
connect = 127.0.0.1:{sink_port}
protocol = smtp
cert = {certificate}
"""


def certificate(folder: Path) -> Path:
    """A file with key and certificate of the kind that Dispatch makes for itself (ECDSA P-256)."""
    identity = generate(["localhost"], ["127.0.0.1"], now=datetime.now(UTC))
    path = folder / "identity.pem"
    path.write_bytes(identity.private_key + identity.chain_pem)
    path.chmod(0o600)
    return path


class Tunnel:
    """Runs inside the `with` block; who connects to `port` reaches the relay, by TLS."""

    def __init__(self, folder: Path, *, relay_port: int, upstream_port: int, sink_port: int) -> None:
        self.port = free_port()
        self._upstream_port = upstream_port
        self._file = folder / "stunnel.conf"
        self._file.write_text(
            _CONFIGURATION.format(
                cipher=CIPHER,
                port=self.port,
                relay_port=relay_port,
                upstream_port=upstream_port,
                sink_port=sink_port,
                certificate=certificate(folder),
            )
        )

    def __enter__(self) -> Tunnel:
        self.process = subprocess.Popen([STUNNEL, str(self._file)], stdin=subprocess.DEVNULL)
        wait_for_port(self.port, self.process)
        wait_for_port(self._upstream_port, self.process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
