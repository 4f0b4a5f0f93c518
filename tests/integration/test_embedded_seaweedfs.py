"""The embedded object store: closed to everybody without keys, and keeping what it acknowledged."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import socket
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from tests import engines

from modelworks.embedded import external, orphans, seaweedfs
from modelworks.embedded.launch import Launch
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError, SetupFailed
from modelworks.objectstore import buckets
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri


def prepared(home: Home) -> Launch:
    return seaweedfs.prepare(home, port=0)


def credentials_of(home: Home) -> Credentials:
    return Credentials.load(home.secrets / "s3.json")


def test_nobody_without_keys_gets_in(store_home: Home, store: Credentials, bucket: str) -> None:
    ports = json.loads((store_home.seaweedfs / "ports.json").read_text())
    ObjectClient(store).put(ObjectUri(bucket, "secret"), b"secret")
    # Status pages may answer; nothing that reads, writes or hands out a token to do so.
    doors = ("/dir/assign", "/dir/lookup?volumeId=1", "/vol/grow?count=1", "/col/delete?collection=x", "/submit")
    for name in ("master", "filer", "admin"):
        base = f"http://127.0.0.1:{ports[name]}"
        for path in (*doors, f"/buckets/{bucket}/secret", "/api/s3/buckets", "/api/users", "/api/config"):
            assert httpx.get(base + path).status_code in (401, 403, 404), base + path
            assert httpx.post(base + path, content=b"x").status_code in (401, 403, 404, 405), base + path
        assert httpx.put(f"{base}/buckets/{bucket}/planted", content=b"x").status_code in (401, 403, 404, 405)
    volume = f"http://127.0.0.1:{ports['volume']}"
    found = sorted((store_home.seaweedfs / "data").glob(f"{bucket}_*.dat"))
    assert found, "the bucket has no volume of its own"
    number = re.sub(r"\D", "", found[0].stem.rpartition("_")[2])
    for key in range(1, 40):
        fid = f"{volume}/{number},{key:02x}00000000"
        assert httpx.get(fid).status_code == 401
    assert httpx.post(f"{volume}/{number},0100000000", content=b"x").status_code == 401
    assert httpx.delete(f"{volume}/{number},0100000000").status_code == 401
    assert httpx.get(f"{store.endpoint}/").status_code == 403
    assert httpx.get(f"{store.endpoint}/{bucket}/secret").status_code == 403
    assert httpx.put(f"{store.endpoint}/{bucket}/planted", content=b"x").status_code == 403
    assert httpx.get(f"{store.endpoint}/{bucket}").status_code == 403


def test_grpc_demands_a_certificate(store_home: Home) -> None:
    ports = json.loads((store_home.seaweedfs / "ports.json").read_text())
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    for name in ("master_grpc", "volume_grpc", "filer_grpc", "s3_grpc", "admin_grpc"):
        port = ports["admin"] + 10000 if name == "admin_grpc" else ports[name]
        with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
            plain.sendall(preface)
            answer = plain.recv(1024)
        # HTTP/2 would answer with a SETTINGS frame (type 4); TLS sends an alert (21), or hangs up.
        assert answer[:1] in (b"", b"\x15"), (name, answer)


def test_everything_listens_on_loopback_and_is_private(store_home: Home) -> None:
    pid = next(iter(orphans.working_in(store_home.seaweedfs, "weed")))
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        match = re.match(r"socket:\[(\d+)\]", os.readlink(entry))
        if match:
            inodes.add(match[1])
    listening = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                listening.append(fields[1].split(":")[0])
    assert listening
    assert set(listening) == {"0100007F"}
    for path in (*store_home.secrets.rglob("*"), *store_home.seaweedfs.glob("*.*")):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_nothing_acknowledged_is_lost_when_it_is_killed(home: Home) -> None:
    launch = prepared(home)
    process = engines.start(launch, home.root / "log")
    engines.wait_ready(process, lambda: seaweedfs.ready(home), home.root / "log")
    credentials = credentials_of(home)
    buckets.create(credentials, "kept")
    acknowledged: dict[str, str] = {}
    enough = threading.Event()

    def write() -> None:
        client = ObjectClient(credentials, deadline=0.0)
        for n in range(10_000):
            data = secrets.token_bytes(1 + n * 997 % 200_000)
            try:
                client.put(ObjectUri("kept", f"{n}"), data)
            except ModelworksError:
                return  # it was killed; what was not acknowledged does not count
            acknowledged[f"{n}"] = hashlib.sha256(data).hexdigest()
            if n == 100:
                enough.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert enough.wait(60)
    engines.kill(process)
    writer.join()
    # The same port again, so that clients find it where it was: one that asks meanwhile waits for it.
    patient = ObjectClient(credentials, deadline=60.0)
    waiting = ThreadPoolExecutor().submit(patient.get, ObjectUri("kept", "0"))
    with engines.running(prepared(home), lambda: seaweedfs.ready(home), home.root / "log"):
        assert credentials_of(home) == credentials
        assert hashlib.sha256(waiting.result(60)).hexdigest() == acknowledged["0"]
        client = ObjectClient(credentials)
        assert {k: hashlib.sha256(client.get(ObjectUri("kept", k))).hexdigest() for k in acknowledged} == acknowledged


def test_ports_taken_meanwhile_are_chosen_anew_and_data_stays(home: Home) -> None:
    with engines.running(prepared(home), lambda: seaweedfs.ready(home), home.root / "log"):
        buckets.create(credentials_of(home), "kept")
        ObjectClient(credentials_of(home)).put(ObjectUri("kept", "x"), b"x")
    before = json.loads((home.seaweedfs / "ports.json").read_text())
    with socket.create_server(("127.0.0.1", before["master"])), socket.create_server(("127.0.0.1", before["volume"])):
        launch = prepared(home)
        assert before["master"] not in launch.ports
        with engines.running(launch, lambda: seaweedfs.ready(home), home.root / "log"):
            client = ObjectClient(credentials_of(home))
            assert client.get(ObjectUri("kept", "x")) == b"x"
            client.put(ObjectUri("kept", "y"), b"y")


def test_a_forgotten_one_is_ended_and_nothing_stays_behind(home: Home) -> None:
    forgotten = engines.start(prepared(home), home.root / "log")
    engines.wait_ready(forgotten, lambda: seaweedfs.ready(home), home.root / "log")
    launch = prepared(home)
    assert forgotten.wait(10) is not None
    with engines.running(launch, lambda: seaweedfs.ready(home), home.root / "log"):
        assert any(path.exists() for path in launch.leaves)
    assert not any(path.exists() for path in launch.leaves)


def test_a_taken_port_is_told(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SetupFailed, match=f"port {port} .* taken") as refused:
            seaweedfs.prepare(home, port=port)
    assert f":{port}" in (refused.value.remedy or "")


def test_an_address_of_another_machine_is_told(home: Home) -> None:
    with pytest.raises(SetupFailed, match=r"cannot listen on 192\.0\.2\.1"):
        seaweedfs.prepare(home, host="192.0.2.1", port=0)


def test_a_full_disk_is_told(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = seaweedfs.shutil.disk_usage(home.root)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(SetupFailed, match="1Mi free"):
        prepared(home)


def test_an_external_store(home: Home, store: Credentials) -> None:
    environ = {"AWS_ACCESS_KEY_ID": store.access_key_id, "AWS_SECRET_ACCESS_KEY": store.secret_access_key}
    assert external.prepare_store(home, store.endpoint, environ) == store
    assert Credentials.load(home.secrets / "agent.json") == store
    with pytest.raises(SetupFailed, match="AWS_ACCESS_KEY_ID is not"):
        external.prepare_store(home, store.endpoint, {})
    with pytest.raises(SetupFailed, match="refused"):
        external.prepare_store(home, store.endpoint, environ | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(SetupFailed, match="cannot be reached"):
        external.prepare_store(home, "http://127.0.0.1:9", environ)
