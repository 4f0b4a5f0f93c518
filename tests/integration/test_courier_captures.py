"""Captured requests become objects of the bucket; one that cannot be written keeps nobody waiting."""

from __future__ import annotations

import json
import shutil
import signal
import socket
from collections.abc import Iterator

import pytest
from tests.courier_lab import Lab, lab, until

from modelworks.home import Home
from modelworks.objectstore import buckets
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri


@pytest.fixture
def courier(home: Home, database_url: str, store_home: Home) -> Iterator[Lab]:
    with lab(home, database_url) as one:
        shutil.copy(store_home.secrets / "s3.json", home.secrets / "s3.json")
        one.start()
        yield one


def send(courier: Lab, *lines: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as gateway:
        gateway.connect(str(courier.home.capture_socket))
        gateway.sendall(b"".join(lines))


def test_lines_become_objects(courier: Lab) -> None:
    credentials = Credentials.load(courier.home.secrets / "s3.json")
    buckets.create(credentials, "captured")
    client = ObjectClient(credentials)
    line = lambda n: json.dumps({"uri": "s3://captured/of/", "service": "digits", "id": n}).encode() + b"\n"  # noqa: E731
    lost = json.dumps({"uri": "s3://there-is-none/", "service": "digits"}).encode() + b"\n"
    large = json.dumps({"uri": "s3://captured/of/", "service": "big", "x": "x" * (5 << 20)}).encode() + b"\n"
    send(courier, line(0), b"nonsense\n", b"{}\n", lost, line(1))
    send(courier, large)  # an object of its own, at once
    until(lambda: list(client.list(ObjectUri("captured", "of/big/"))))
    send(courier, line(2))
    until(lambda: list(client.list(ObjectUri("captured", "of/digits/"))), 40)
    until(lambda: "mw_captures_dropped_total 3" in courier.ask("metrics"))
    assert "mw_captures_total 4" in courier.ask("metrics")
    found = b"".join(
        client.get(ObjectUri("captured", one.key)) for one in client.list(ObjectUri("captured", "of/digits/"))
    )
    assert [json.loads(one)["id"] for one in found.splitlines()] == [0, 1, 2]
    send(courier, line(3))
    until(lambda: json.loads(courier.ask("status"))["captured_bytes"] > 0)
    courier.couriers[0].send_signal(signal.SIGTERM)
    assert courier.couriers[0].wait(20) == 0
    keys = [one.key for one in client.list(ObjectUri("captured", "of/digits/"))]
    assert any(b'"id": 3' in client.get(ObjectUri("captured", key)) for key in keys), (
        "what waited is written at the end"
    )
