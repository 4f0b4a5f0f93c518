"""Asynchronous services: a task is kept, worked off, and answered once, whatever the replicas do meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.courier_lab import Lab, lab, until

from modelworks.home import Home


@pytest.fixture
def courier(home: Home, database_url: str) -> Iterator[Lab]:
    with lab(home, database_url) as one:
        one.start()
        yield one


def test_a_task_is_accepted_worked_off_and_answered(courier: Lab) -> None:
    replica = courier.replica(lambda body, _: (200, {"Content-Type": "text/x-answer", "X-Own": "1"}, body.upper()))
    uid = courier.route(replica)
    courier.knows(uid)
    accepted = courier.submit(uid, b"seven", "/v1/say?loud=1", Content_Type="text/plain", X_Trace="t")
    assert accepted.status_code == 202, accepted.text
    id = accepted.json()["id"]
    assert accepted.headers["x-eas-queueservice-request-id"] == id
    assert accepted.json()["url"] == f"/api/predict/digits/sink?requestId={id}"
    found = courier.result(uid, id)
    assert (found.status_code, found.content) == (200, b"SEVEN")
    assert (found.headers["content-type"], found.headers["x-own"]) == ("text/x-answer", "1")
    path, headers, _ = replica.requests[0]
    assert (path, headers["content-type"], headers["x-trace"]) == ("/v1/say?loud=1", "text/plain", "t")
    assert (headers["x-mw-task-id"], headers["x-mw-task-attempt"]) == (id, "1")
    state = courier.get(uid, f"/tasks/{id}").json()
    assert (state["state"], state["attempts"], state["status"]) == ("done", 1, 200)
    assert state["created_at"] < state["finished_at"] < state["expires_at"]


def test_an_idempotency_key_makes_one_task(courier: Lab) -> None:
    uid = courier.route(replica := courier.replica())
    courier.knows(uid)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: courier.submit(uid, b"x", Idempotency_Key="k").json()["id"], range(20)))
    assert len(set(answers)) == 1
    assert courier.submit(uid, b"x", Idempotency_Key="other").json()["id"] != answers[0]
    courier.result(uid, answers[0])
    assert replica.seen[answers[0]] == 1


def test_what_waits_is_pending_and_can_be_cancelled(courier: Lab) -> None:
    go = threading.Event()
    replica = courier.replica(lambda body, _: (go.wait(30), (200, {}, body))[1])
    uid = courier.route(replica, concurrency=1)
    courier.knows(uid)
    first, second, third = (courier.submit(uid, text).json()["id"] for text in (b"1", b"2", b"3"))
    until(lambda: courier.get(uid, f"/tasks/{first}").json()["state"] == "running")
    assert courier.get(uid, f"/sink?requestId={second}").status_code == 204
    assert courier.get(uid, f"/tasks/{second}").json()["state"] == "pending"
    delete = lambda id: courier.http.delete(f"/tasks/{id}", headers={"X-Mw-Service-Uid": uid})  # noqa: E731
    assert delete(first).status_code == 409
    assert delete(second).json()["state"] == "done"
    assert delete(second).status_code == 200
    go.set()
    assert courier.result(uid, third).content == b"3"
    cancelled = courier.result(uid, second)
    assert (cancelled.status_code, cancelled.json()["code"]) == (410, "cancelled")
    assert second not in replica.seen
    assert delete(third).status_code == 409
    assert delete("nobody").status_code == 404
    assert courier.get(uid, "/tasks/nobody").status_code == 404
    assert courier.get(uid, "/sink").status_code == 400
    assert courier.get("another", "/tasks/x").status_code == 503


def test_errors_of_the_replica_are_tried_again_and_the_model_s_word_is_not(courier: Lab) -> None:
    def moody(body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        if body == b"never":
            return 500, {"Content-Type": "text/plain"}, b"broken"
        if body == b"wrong":
            return 422, {}, b"no such input"
        return (503 if headers["x-mw-task-attempt"] == "1" else 200), {}, b"at last"

    uid = courier.route(replica := courier.replica(moody))
    courier.knows(uid)
    ids = {body: courier.submit(uid, body).json()["id"] for body in (b"never", b"wrong", b"later")}
    found = {body: courier.result(uid, id) for body, id in ids.items()}
    assert {body: (one.status_code, one.content) for body, one in found.items()} == {
        b"never": (500, b"broken"),
        b"wrong": (422, b"no such input"),
        b"later": (200, b"at last"),
    }
    assert [replica.seen[ids[body]] for body in (b"never", b"wrong", b"later")] == [3, 1, 2]


def test_the_queue_is_bounded(courier: Lab) -> None:
    uid = courier.route(terms={"max_pending": 3}, state="starting")
    courier.knows(uid, 0)
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: courier.submit(uid, Idempotency_Key=f"k{n}"), range(20)))
    assert sorted(one.status_code for one in answers) == [202] * 3 + [429] * 17
    refused = next(one for one in answers if one.status_code == 429)
    assert (refused.json()["code"], int(refused.headers["retry-after"]) > 0) == ("limit-exceeded", True)
    kept = next(n for n, one in enumerate(answers) if one.status_code == 202)
    assert courier.submit(uid, Idempotency_Key=f"k{kept}").status_code == 202, "it is there already"
    too_large = courier.submit(uid, b"x" * (4 * 1024 * 1024 + 1))
    assert (too_large.status_code, too_large.json()["code"]) == (413, "too-large")
    assert "bucket" in too_large.json()["remedy"]


def test_tasks_wait_for_a_replica_and_make_demand(courier: Lab) -> None:
    uid = courier.route(state="idle")
    courier.knows(uid, 0)
    ids = [courier.submit(uid, b"%d" % n).json()["id"] for n in range(5)]
    with courier.traffic() as reports:
        until(
            lambda: any((one := r["services"].get(uid)) and one["queued"] == 5 and one["oldest"] > 0 for r in reports())
        )
    until(lambda: 'mw_tasks_pending{service="digits"} 5' in courier.ask("metrics"))
    courier.route(courier.replica())
    assert [courier.result(uid, id).content for id in ids] == [b"0", b"1", b"2", b"3", b"4"]
    until(lambda: 'mw_tasks_pending{service="digits"} 0' in courier.ask("metrics"))
    assert 'mw_tasks_finished_total{service="digits",status="200"} 5' in courier.ask("metrics")


def test_limits_of_replicas_hold_with_two_couriers(courier: Lab) -> None:
    courier.start()
    uid = courier.route()
    until(lambda: json.loads(courier.ask("status"))["couriers"] == 2)
    slow = lambda body, _: (time.sleep(0.02), (200, {}, body))[1]  # noqa: E731
    replicas = [courier.replica(slow) for _ in range(2)]
    uid = courier.route(*replicas, concurrency=4)
    courier.knows(uid, 2)
    with ThreadPoolExecutor(16) as threads:
        ids = [one.json()["id"] for one in threads.map(lambda n: courier.submit(uid, b"%d" % n), range(200))]
        assert {one.status_code for one in threads.map(lambda id: courier.result(uid, id), ids)} == {200}
    assert all(replica.most_at_once <= 4 for replica in replicas)
    assert all(replica.seen.total() > 40 for replica in replicas)
    assert sum(replica.seen.total() for replica in replicas) == 200


def test_a_replica_that_goes_loses_nothing(courier: Lab) -> None:
    hang = threading.Event()
    first = courier.replica(lambda body, _: (hang.wait(30), (200, {}, b"late"))[1])
    uid = courier.route(first, concurrency=2)
    courier.knows(uid)
    ids = [courier.submit(uid, b"%d" % n).json()["id"] for n in range(6)]
    until(lambda: first.at_once == 2)
    second = courier.replica()
    courier.route(second, concurrency=2)
    found = [courier.result(uid, id) for id in ids[2:]]
    assert [one.content for one in found] == [b"2", b"3", b"4", b"5"]
    hang.set()  # it drains: what it had begun is answered
    assert [courier.result(uid, id).content for id in ids[:2]] == [b"late", b"late"]
    assert second.seen.total() == 4


def test_a_killed_courier_s_tasks_are_taken_up_at_once(courier: Lab) -> None:
    hang = threading.Event()
    replica = courier.replica(lambda body, headers: (hang.wait(30), (200, {}, body))[1])
    uid = courier.route(replica, concurrency=4, terms={"lease": 600.0, "attempts": 1})
    courier.knows(uid)
    ids = [courier.submit(uid, b"%d" % n).json()["id"] for n in range(8)]
    until(lambda: replica.at_once == 4)
    courier.kill(courier.couriers[0])
    hang.set()
    courier.database.execute("SELECT 1")
    courier.start()
    courier.knows(uid)
    assert [courier.result(uid, id).content for id in ids] == [b"%d" % n for n in range(8)]
    assert courier.rows("SELECT max(attempts) FROM tasks") == [(1,)]


def test_a_terminated_courier_gives_back_what_it_cannot_end(courier: Lab) -> None:
    hang = threading.Event()
    replica = courier.replica(lambda body, _: (hang.wait(30), (200, {}, body))[1])
    uid = courier.route(replica, concurrency=1)
    courier.knows(uid)
    id = courier.submit(uid, b"x").json()["id"]
    until(lambda: replica.at_once == 1)
    old = courier.couriers[0]
    courier.start()
    old.terminate()
    assert old.wait(20) == 0
    hang.set()
    assert courier.result(uid, id).content == b"x"
    assert courier.rows("SELECT attempts FROM tasks") == [(1,)]


def test_a_lease_is_renewed_while_its_task_runs(courier: Lab) -> None:
    replica = courier.replica(lambda body, _: (time.sleep(3.5), (200, {}, body))[1])
    uid = courier.route(replica, terms={"lease": 1.0})
    courier.knows(uid)
    id = courier.submit(uid, b"long").json()["id"]
    assert courier.result(uid, id).content == b"long"
    assert replica.seen[id] == 1


def test_a_replica_that_hangs_gets_nothing_more_and_is_told_of_until_it_answers(courier: Lab) -> None:
    go_on = threading.Event()

    def hangs(body: bytes, _: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        go_on.wait(60)
        return 200, {}, body

    try:
        replicas = courier.replica(hangs), courier.replica()
        uid = courier.route(*replicas, concurrency=2, hang_timeout=1.0)
        courier.knows(uid, 2)
        with courier.traffic() as reports:

            def hung() -> list[str]:
                return next((r["services"][uid]["hung"] for r in reversed(reports()) if uid in r["services"]), [])

            first = [courier.submit(uid, b"%d" % n).json()["id"] for n in range(8)]
            until(lambda: hung() == ["0-0"])
            assert 'mw_tasks_replicas_hung{service="digits"} 1' in courier.ask("metrics")
            assert 1 <= len(replicas[0].seen) <= 2
            before = replicas[0].seen.total()
            later = [courier.submit(uid, b"later").json()["id"] for _ in range(8)]
            assert {courier.result(uid, id).content for id in later} == {b"LATER"}
            assert replicas[0].seen.total() == before, "it was given another one"
            go_on.set()
            until(lambda: hung() == [])
        assert {courier.result(uid, id).status_code for id in first} == {200}
    finally:
        go_on.set()
    assert courier.rows("SELECT max(attempts) FROM tasks") == [(1,)]


def test_events_tell_each_state_and_the_result(courier: Lab) -> None:
    go = threading.Event()
    uid = courier.route(courier.replica(lambda body, _: (go.wait(30), (201, {"X-A": "b"}, body))[1]))
    courier.knows(uid)
    id = courier.submit(uid, b"hello").json()["id"]
    seen: list[tuple[str, dict[str, object]]] = []
    with courier.http.stream("GET", f"/tasks/{id}/events", headers={"X-Mw-Service-Uid": uid}) as stream:
        assert stream.headers["content-type"] == "text/event-stream"
        name = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                seen.append((name, json.loads(line[6:])))
                go.set()
    assert [name for name, _ in seen][-2:] == ["state", "result"]
    assert seen[-2][1]["state"] == "done"
    assert {key: seen[-1][1][key] for key in ("status", "body")} == {"status": 201, "body": "hello"}


def test_results_expire_and_deleted_services_leave_nothing(courier: Lab) -> None:
    uid = courier.route(courier.replica(), terms={"result_ttl": 1.0})
    courier.knows(uid)
    id = courier.submit(uid).json()["id"]
    assert courier.result(uid, id).status_code == 200
    until(lambda: courier.get(uid, f"/tasks/{id}").status_code == 404, 30)
    courier.route(state="starting")
    courier.knows(uid, 0)
    courier.submit(uid)
    courier.database.execute("DELETE FROM resources")
    courier.database.execute("DELETE FROM routes")
    courier.database.execute("NOTIFY mw_routes")
    until(lambda: courier.rows("SELECT count(*) FROM tasks") == [(0,)])


def test_a_stopped_service_keeps_its_tasks_and_takes_no_more(courier: Lab) -> None:
    uid = courier.route(state="starting")
    courier.knows(uid, 0)
    id = courier.submit(uid, b"kept").json()["id"]
    courier.route(state="stopped")
    until(lambda: courier.submit(uid).status_code == 503)
    assert courier.get(uid, f"/tasks/{id}").json()["state"] == "pending"
    courier.route(courier.replica())
    assert courier.result(uid, id).content == b"KEPT"


def test_what_is_no_task_is_not_found(courier: Lab) -> None:
    uid = courier.route(state="starting")
    courier.knows(uid, 0)
    for id in ("%00", "0" * 31, "Z" * 32, "0" * 32, "%ED%A0%80", "..%2f.."):
        for path in (f"/tasks/{id}", f"/sink?requestId={id}", f"/tasks/{id}/events"):
            found = courier.get(uid, path)
            assert (found.status_code, found.json()["code"]) == (404, "not-found"), path
        gone = courier.http.request("DELETE", f"/tasks/{id}", headers={"X-Mw-Service-Uid": uid})
        assert (gone.status_code, gone.json()["code"]) == (404, "not-found")
