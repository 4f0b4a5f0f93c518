"""``MW_HOME``: where one platform keeps its state, and the names of everything in it.

::

    config.yaml          the user's settings: substitutions, instance types, prices, environments
    client.json          0600: url, api_key, s3_url of this platform, for the SDK and CLI on this machine
    secrets/             0700: master.key, database.json, s3.json, agent.json, tls/, controller.token
    postgres/  seaweedfs/  gateway/  volumes/  logs/<process>.log
    agent/{runs,cache,environments,sockets}
    run/                 sockets and state of the processes; in a short directory of its own when the path is too long
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

# sockaddr_un.sun_path holds 108 bytes; names below the directory take up to 48 ("/r/<32>.sock").
_LONGEST_RUN_DIRECTORY = 58


def default_home() -> Path:
    """``$MW_HOME``, else ``/var/lib/modelworks`` for root and ``~/.modelworks`` for everybody else."""
    value = os.environ.get("MW_HOME")
    if value:
        return Path(value).expanduser().absolute()
    return Path("/var/lib/modelworks") if os.geteuid() == 0 else Path.home() / ".modelworks"


@dataclass(frozen=True)
class Home:
    """The paths below one ``MW_HOME``. Making them is the supervisor's work."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        return cls(default_home())

    @property
    def run(self) -> Path:
        """Sockets live here; a long home gets a short directory named by its digest, since socket paths are limited."""
        plain = self.root / "run"
        if len(str(plain)) <= _LONGEST_RUN_DIRECTORY:
            return plain
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:10]
        return Path(f"/tmp/modelworks-{os.geteuid()}-{digest}")

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def client(self) -> Path:
        return self.root / "client.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def agent(self) -> Path:
        return self.root / "agent"

    @property
    def volumes(self) -> Path:
        return self.root / "volumes"

    @property
    def postgres(self) -> Path:
        return self.root / "postgres"

    @property
    def seaweedfs(self) -> Path:
        return self.root / "seaweedfs"

    @property
    def gateway_snapshot(self) -> Path:
        return self.root / "gateway" / "routes.json"

    @property
    def supervisor_state(self) -> Path:
        return self.run / "supervisor.json"

    @property
    def controller_socket(self) -> Path:
        return self.run / "controller.sock"

    @property
    def agent_socket(self) -> Path:
        return self.run / "agent.sock"

    @property
    def bridge_socket(self) -> Path:
        """Where the bridge to a Ray cluster tells of its nodes, and reserves room on them."""
        return self.run / "bridge.sock"

    @property
    def node_sockets(self) -> Path:
        """The agents of a Ray cluster's nodes, one socket each."""
        return self.run / "nodes"

    @property
    def gateway_socket(self) -> Path:
        """The gateway's control socket: it hands its listening socket to a new supervisor, and shows its metrics."""
        return self.run / "gateway.sock"

    @property
    def courier_socket(self) -> Path:
        """Where the courier takes the requests of asynchronous services, from the gateways."""
        return self.run / "courier.sock"

    @property
    def capture_socket(self) -> Path:
        """Where the courier takes captured requests, from the gateways."""
        return self.run / "courier-capture.sock"

    @property
    def courier_control_socket(self) -> Path:
        """The courier's control socket: its metrics and what it tells of its queues."""
        return self.run / "courier-control.sock"

    @property
    def tracking_socket(self) -> Path:
        """Where the MLflow server answers, for the gateways; the supervisor listens there until it is asked for."""
        return self.run / "tracking.sock"

    @property
    def gateway_sockets(self) -> list[Path]:
        """The control sockets of all gateways that run: of several, the others are ``gateway-2.sock`` and so on."""
        return sorted([*self.run.glob("gateway.sock"), *self.run.glob("gateway-*.sock")])

    @property
    def gateways_shared(self) -> Path:
        """What several gateways count together."""
        return self.run / "gateways.shared"

    @property
    def postgres_socket_dir(self) -> Path:
        return self.run / "pg"

    @property
    def relay_links(self) -> Path:
        """The sockets that the node's relay leads to, by the digests of the secrets that open the way."""
        return self.run / "relay"

    @property
    def relay_lock(self) -> Path:
        """Held by a relay for life."""
        return self.run / "relay.lock"

    @property
    def relay_state(self) -> Path:
        """``{pid, port, release}`` of the last relay."""
        return self.run / "relay.json"

    @property
    def replica_sockets(self) -> Path:
        return self.run / "r"
