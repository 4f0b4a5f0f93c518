"""Results are posted to where their submitters asked: signed, until somebody takes them, and not just anywhere."""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator

import pytest
from tests.courier_lab import Answer, Lab, Replica, lab, until

from modelworks.cipher import Cipher, labelled
from modelworks.courier.webhooks import signature
from modelworks.home import Home

TOKEN = "the-service-s-token"


@pytest.fixture
def courier(home: Home, database_url: str) -> Iterator[Lab]:
    with lab(home, database_url) as one:
        one.environment["MW_WEBHOOK_ALLOW"] = "127.0.0.1"
        one.start()
        yield one


def sealed(home: Home, uid: str) -> list[str]:
    cipher = Cipher.load(home.secrets / "master.key")
    return [base64.b64encode(labelled("token", cipher.seal(TOKEN, uid, "token"))).decode()]


def receiver(courier: Lab, *statuses: int) -> Replica:
    """Answers the statuses one after another, then 200."""
    left = list(statuses)

    def take(body: bytes, headers: dict[str, str]) -> Answer:
        return (left.pop(0) if left else 200), {}, b""

    one = Replica(None, take)
    courier.replicas.append(one)
    return one


def test_a_result_is_posted_signed_and_again_until_it_is_taken(courier: Lab, home: Home) -> None:
    receives = receiver(courier, 500)
    uid = courier.route(
        courier.replica(),
        terms={"webhook": f"http://127.0.0.1:{receives.port}/done?from=here"},
        token_sealed=sealed(home, "uid-digits"),
    )
    courier.knows(uid)
    id = courier.submit(uid, b"seven").json()["id"]
    until(lambda: len(receives.requests) == 2)
    first, (path, headers, body) = receives.requests
    assert first[2] == body == b"SEVEN"
    assert path == "/done?from=here"
    assert (headers["x-mw-task-id"], headers["x-mw-task-status"]) == (id, "200")
    assert headers["content-type"] == "text/plain"
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", headers["x-mw-signature"])
    assert found
    assert found[2] == signature(TOKEN, int(found[1]), id, 200, body)
    until(lambda: courier.rows("SELECT notify_at FROM tasks") == [(None,)])
    assert 'mw_tasks_webhooks_total{service="digits"} 1' in courier.ask("metrics")


def test_a_request_may_name_its_own_webhook(courier: Lab, home: Home) -> None:
    receives = receiver(courier)
    uid = courier.route(courier.replica(), token_sealed=sealed(home, "uid-digits"))
    courier.knows(uid)
    courier.submit(uid, b"a", X_Mw_Webhook=f"http://127.0.0.1:{receives.port}/")
    until(lambda: [body for _, _, body in receives.requests] == [b"A"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://example.com/", "http"),
        ("http://127.0.0.2/", "MW_WEBHOOK_ALLOW"),
        ("http://localhost/", "MW_WEBHOOK_ALLOW"),
        ("http://169.254.169.254/latest/meta-data", "MW_WEBHOOK_ALLOW"),
        ("http://[::1]/", "MW_WEBHOOK_ALLOW"),
        ("http://[::ffff:127.0.0.2]/", "MW_WEBHOOK_ALLOW"),
        ("http://0.0.0.0/", "MW_WEBHOOK_ALLOW"),
        ("http://100.100.100.200/latest/meta-data", "MW_WEBHOOK_ALLOW"),
        ("http://168.63.129.16/", "MW_WEBHOOK_ALLOW"),
        ("http://[fd00:ec2::254]/latest/", "MW_WEBHOOK_ALLOW"),
        ("http://user:secret@example.com/", "signed"),
        ("http://example.com:port/", "URL"),
        ("nonsense", "http"),
    ],
)
def test_where_a_webhook_may_not_go(url: str, why: str, courier: Lab) -> None:
    uid = courier.route(state="starting")
    courier.knows(uid, 0)
    refused = courier.submit(uid, X_Mw_Webhook=url)
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert why in refused.json()["detail"]
    assert courier.rows("SELECT count(*) FROM tasks") == [(0,)]


def test_a_name_is_judged_by_where_it_leads(home: Home, database_url: str) -> None:
    """A name is known only when it is looked up, at each delivery."""
    with lab(home, database_url) as courier:
        courier.start()
        receives = receiver(courier)
        uid = courier.route(courier.replica(), token_sealed=sealed(home, "uid-digits"))
        courier.knows(uid)
        until(lambda: courier.submit(uid, X_Mw_Webhook=f"http://ip6-localhost.:{receives.port}/").status_code == 202)
        until(lambda: courier.rows("SELECT count(*) FROM tasks WHERE notices > 0 AND notify_at > now()") == [(1,)])
        assert receives.requests == []


def test_a_token_that_cannot_be_opened_stops_only_its_own_webhooks(courier: Lab, home: Home) -> None:
    receives = receiver(courier)
    broken = courier.route(courier.replica(), service="broken", token_sealed=sealed(home, "uid-of-another"))
    good = courier.route(courier.replica(), token_sealed=sealed(home, "uid-digits"))
    for uid in (broken, good):
        courier.knows(uid)
        assert courier.submit(uid, X_Mw_Webhook=f"http://127.0.0.1:{receives.port}/").status_code == 202
    until(lambda: courier.rows("SELECT notices FROM tasks WHERE uid = %s AND notices > 0", broken))
    until(lambda: courier.rows("SELECT notify_at FROM tasks WHERE uid = %s AND status = 200", good) == [(None,)])
    assert [headers["x-mw-service"] for _, headers, _ in receives.requests] == ["digits"]
    assert courier.couriers[0].poll() is None


def test_a_receiver_that_says_nothing_holds_up_its_own_service_alone(courier: Lab, home: Home) -> None:
    asked, answers = threading.Semaphore(0), threading.Event()

    def stall(body: bytes, headers: dict[str, str]) -> Answer:
        asked.release()
        answers.wait(30)
        return 200, {}, b""

    stalls, receives = Replica(None, stall), receiver(courier)
    courier.replicas.append(stalls)
    slow = courier.route(courier.replica(), service="slow", token_sealed=sealed(home, "uid-slow"))
    good = courier.route(courier.replica(), token_sealed=sealed(home, "uid-digits"))
    for uid in (slow, good):
        courier.knows(uid)
    for _ in range(40):
        assert courier.submit(slow, X_Mw_Webhook=f"http://127.0.0.1:{stalls.port}/").status_code == 202
    for _ in range(8):
        assert asked.acquire(timeout=20)
    assert courier.submit(good, X_Mw_Webhook=f"http://127.0.0.1:{receives.port}/").status_code == 202
    until(lambda: len(receives.requests) == 1, timeout=10)
    assert stalls.most_at_once == 8
    answers.set()
    until(lambda: courier.rows("SELECT count(*) FROM tasks WHERE notify_at IS NULL") == [(41,)])
