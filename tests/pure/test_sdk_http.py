"""The HTTP client: problems become errors, cuts are resumed, nothing is repeated that must not be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest

from modelworks.kernel.errors import (
    Conflict,
    Invalid,
    ModelworksError,
    NotFound,
    PlatformUnreachable,
    Unauthorized,
    Unavailable,
)
from modelworks.sdk.client import Client
from modelworks.sdk.http import server_events

Handler = Callable[[httpx.Request], httpx.Response]


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def __call__(self) -> float:
        return self.now


def client_of(handler: Handler, clock: Clock | None = None) -> Client:
    clock = clock or Clock()
    client = Client("http://mw.test", "key", transport=httpx.MockTransport(handler))
    client.http._sleep, client.http._clock = clock.sleep, clock
    return client


def test_key_and_workspace_are_sent() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"name": "local"})

    assert client_of(answer).whoami() == {"name": "local"}
    assert seen[0].headers["Authorization"] == "Bearer key"
    assert seen[0].url.path == "/api/v1/whoami"
    assert seen[0].url.params["workspace"] == "default"


@pytest.mark.parametrize(
    "error",
    [
        Invalid("wrong", remedy="do this"),
        NotFound("gone"),
        Conflict("busy"),
        Unauthorized("who?"),
    ],
)
def test_a_problem_becomes_its_error(error: ModelworksError) -> None:
    client = client_of(lambda _: httpx.Response(error.status, json=error.problem()))
    with pytest.raises(type(error), match=error.detail) as caught:
        client.get("Service", "x")
    assert caught.value.remedy == error.remedy


def test_an_answer_that_is_no_problem_names_the_status() -> None:
    client = client_of(lambda _: httpx.Response(404, text="<html>"))
    with pytest.raises(NotFound, match=r"/api/v1/status answered 404"):
        client.status()


def test_another_server_is_not_taken_for_the_platform() -> None:
    with pytest.raises(PlatformUnreachable, match="not Modelworks"):
        client_of(lambda _: httpx.Response(200, text="<html>hello</html>")).status()


def test_nothing_listens_is_told_quickly_with_the_remedy() -> None:
    clock = Clock()

    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(PlatformUnreachable) as caught:
        client_of(refuse, clock).status()
    assert "mw up --detach" in (caught.value.remedy or "")
    assert clock.now < 2


def test_a_controller_that_restarts_is_waited_for() -> None:
    clock, calls = Clock(), 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if clock.now < 5:
            return httpx.Response(503, json=Unavailable("the controller is down").problem())
        return httpx.Response(200, json={"version": "1"})

    assert client_of(answer, clock).status() == {"version": "1"}
    assert calls > 2


def test_patience_ends() -> None:
    clock = Clock()
    client = client_of(lambda _: httpx.Response(503, json=Unavailable("down").problem()), clock)
    with pytest.raises(Unavailable, match="down"):
        client.status()
    assert 10 < clock.now < 30


def test_what_must_not_happen_twice_is_not_repeated() -> None:
    calls = 0

    def cut(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        raise httpx.ReadError("cut")

    with pytest.raises(PlatformUnreachable):
        client_of(cut).register_version("digits", job="j")
    assert calls == 1


def test_apply_is_repeated_since_a_second_one_changes_nothing() -> None:
    calls = 0

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise httpx.ReadError("cut")
        return httpx.Response(200, json={"results": [{"action": "unchanged"}]})

    assert client_of(answer).apply([{"kind": "Bucket"}]) == [{"action": "unchanged"}]


class Cut(httpx.SyncByteStream):
    """A body that ends with a cut after ``pieces``."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise httpx.RemoteProtocolError("peer closed connection")


def test_a_log_is_resumed_where_it_was_cut() -> None:
    whole, offsets = b"one\ntwo\nthree\nfour\n", []

    def answer(request: httpx.Request) -> httpx.Response:
        offset = int(request.url.params["offset"])
        offsets.append(offset)
        if offset < 14:
            return httpx.Response(200, stream=Cut(whole[offset : offset + 3], whole[offset + 3 : offset + 7]))
        return httpx.Response(200, content=whole[offset:])

    assert b"".join(client_of(answer).job_log("j", follow=True)) == whole
    assert offsets == [0, 7, 14]


def test_a_log_that_is_silent_for_long_is_followed_all_the_same() -> None:
    clock, silent = Clock(), 0

    class Silence(httpx.SyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            clock.sleep(90.0)
            raise httpx.ReadTimeout("timed out")

    def answer(request: httpx.Request) -> httpx.Response:
        nonlocal silent
        silent += 1
        return httpx.Response(200, stream=Silence()) if silent <= 20 else httpx.Response(200, content=b"at last\n")

    assert list(client_of(answer, clock).job_log("j", follow=True)) == [b"at last\n"]


def test_a_log_that_never_comes_back_is_given_up() -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    with pytest.raises(PlatformUnreachable):
        list(client_of(refuse).job_log("j", follow=True))


def test_an_answer_that_is_cut_each_time_is_given_up() -> None:
    clock = Clock()
    with pytest.raises(PlatformUnreachable, match="answers, and breaks off each time: peer closed connection"):
        list(client_of(lambda _: httpx.Response(200, stream=Cut()), clock).job_log("j"))
    assert 30 < clock.now < 120


def test_a_store_that_is_away_is_told_as_such() -> None:
    clock = Clock()
    problem = Unavailable("the object store does not answer").problem()
    with pytest.raises(Unavailable, match="the object store does not answer"):
        list(client_of(lambda _: httpx.Response(503, json=problem), clock).job_log("j"))
    assert 30 < clock.now < 120


def test_a_missing_job_has_no_log() -> None:
    client = client_of(lambda _: httpx.Response(404, json=NotFound("there is no job j").problem()))
    with pytest.raises(NotFound, match="no job j"):
        list(client.job_log("j"))


def test_pages_are_followed() -> None:
    pages = {None: {"items": [{"n": 1}, {"n": 2}], "next_cursor": "c"}, "c": {"items": [{"n": 3}], "next_cursor": None}}
    client = client_of(lambda request: httpx.Response(200, json=pages[request.url.params.get("cursor")]))
    assert [item["n"] for item in client.resources("Service")] == [1, 2, 3]


def test_names_are_escaped_in_paths() -> None:
    seen: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.raw_path)
        return httpx.Response(200, json={})

    client_of(answer).get("Service", "../../keys?x=1")
    assert seen[0].startswith(b"/api/v1/resources/Service/..%2F..%2Fkeys%3Fx%3D1?")


def test_server_events() -> None:
    lines = [": ping", "", "event: resource", 'data: {"a": 1}', "", "event: deleted", "data: {}", ""]
    assert list(server_events(iter(lines))) == [("resource", {"a": 1}), ("deleted", {})]


def test_endpoints_of_other_workspaces_carry_their_name() -> None:
    assert Client("http://h:1", None).service_endpoint("digits") == "http://h:1/api/predict/digits"
    assert Client("http://h:1", None, workspace="w").service_endpoint("d") == "http://h:1/api/predict/w.d"
