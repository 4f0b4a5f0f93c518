from __future__ import annotations

from typing import Any

import pytest

from modelworks.gateway.source import libpq_url
from modelworks.gateway.table import BadRoute, Route, Table, parse_address

GOOD: dict[str, Any] = {
    "service": "digits",
    "uid": "u",
    "state": "ready",
    "message": "",
    "token_sha256": ["ab" * 32],
    "replicas": [{"id": "0-0", "address": "unix:/r/x.sock", "revision": "1f3a"}],
    "concurrency": 16,
    "queue_size": 64,
    "queue_timeout": 30.0,
    "keepalive": 600.0,
    "max_body": 104857600,
}


def test_the_documented_route() -> None:
    route = Route.parse(GOOD)
    assert (route.service, route.tokens, route.replicas[0].revision) == ("digits", (b"\xab" * 32,), "1f3a")


def test_a_queue_grows_only_where_the_route_says_so() -> None:
    assert [Route.parse({**GOOD, **more}).queue_grows for more in ({}, {"queue_grows": True})] == [False, True]


def test_a_replica_behind_a_relay_names_its_run() -> None:
    replica = {"id": "0-0", "address": "tcp:10.0.0.7:4123", "revision": "r", "run": "abcdef/r/0/0"}
    (found,) = Route.parse({**GOOD, "replicas": [replica]}).replicas
    assert (found.run, parse_address(found.address)) == ("abcdef/r/0/0", ("10.0.0.7", 4123))
    assert Route.parse(GOOD).replicas[0].run == ""


@pytest.mark.parametrize(
    "change",
    [
        {"service": "a/b"},
        {"service": ""},
        {"state": "odd"},
        {"token_sha256": ["ab"]},
        {"token_sha256": ["zz" * 32]},
        {"token_sha256": None},
        {"replicas": [{"id": "0"}]},
        {"replicas": [{"id": "0\r\nX: y", "address": "unix:/x"}]},
        {"replicas": [{"id": "0", "address": "http://x"}]},
        {"replicas": "none"},
        {"concurrency": 0},
        {"queue_size": -1},
        {"keepalive": 0},
        {"max_body": "large"},
    ],
)
def test_a_bad_route_is_left_out_and_the_others_stay(change: dict[str, Any]) -> None:
    bad = {**GOOD, "service": "bad", **change}
    with pytest.raises(BadRoute):
        Route.parse(bad)
    table = Table.parse([bad, GOOD])
    assert list(table.routes) == ["digits"]
    assert len(table.bad) == 1


def test_addresses() -> None:
    assert parse_address("unix:/a/b") == "/a/b"
    assert parse_address("tcp:127.0.0.1:80") == ("127.0.0.1", 80)
    assert parse_address("tcp:[::1]:80") == ("::1", 80)
    for bad in ("unix:a", "tcp:host", "tcp:host:0", "tcp:host:99999", "", "x"):
        with pytest.raises(BadRoute):
            parse_address(bad)


def test_the_url_of_sqlalchemy_is_read_by_libpq() -> None:
    assert libpq_url("postgresql+psycopg://u:p%40@/db?host=/run/pg") == "postgresql://u:p%40@/db?host=/run/pg"
    assert libpq_url("postgresql://u@h/db") == "postgresql://u@h/db"
