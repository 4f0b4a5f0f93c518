"""The generic routes: apply, list, get, delete, watch, events, status."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.api_server import Api, serving

from modelworks.home import Home


@pytest.fixture
def api(home: Home, database_url: str) -> Iterator[Api]:
    with serving(home, database_url) as served:
        yield served


def environment(name: str, *requirements: str, **labels: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name} | ({"labels": labels} if labels else {})
    return {"kind": "Environment", "metadata": metadata, "spec": {"requirements": list(requirements)}}


def test_the_second_apply_changes_nothing_and_says_so(api: Api) -> None:
    first = api.apply(environment("forecast", "numpy==2.4.6"))
    assert [result["action"] for result in first] == ["created"]
    (again,) = api.apply(environment("forecast", "numpy==2.4.6"))
    assert (again["action"], again["changes"]) == ("unchanged", [])
    assert again["resource"]["metadata"]["generation"] == 1
    (third,) = api.apply(environment("forecast", "numpy==2.4.5"))
    assert third["action"] == "updated"
    assert {"path": "spec.requirements", "before": ["numpy==2.4.6"], "after": ["numpy==2.4.5"]} in third["changes"]


def test_every_kinds_example_is_accepted_as_a_dry_run_and_stores_nothing(api: Api) -> None:
    kinds = api.client.get("/kinds").json()["items"]
    assert {"TrainingJob", "Service", "Model", "Bucket", "Volume", "Environment", "InstanceType", "Quota", "Sweep"} == {
        kind["name"] for kind in kinds
    }
    for kind in kinds:
        answer = api.client.post("/apply", json={"manifests": [kind["example"]], "dry_run": True})
        # The example of a service names a model that is not there.
        assert answer.status_code == 200 or (kind["name"] == "Service" and "spec.model" in answer.text), answer.text
        assert api.client.get(f"/resources/{kind['plural']}").json() == {"items": [], "next_cursor": None}


def test_a_page_after_the_other_gives_each_resource_once(api: Api) -> None:
    api.apply(*(environment(f"e{n:02}", team="vision" if n % 2 else "speech") for n in range(23)))
    seen: list[str] = []
    cursor = None
    while True:
        params: dict[str, Any] = {"limit": 5} | ({"cursor": cursor} if cursor else {})
        page = api.client.get("/resources/env", params=params).json()
        seen += [item["metadata"]["name"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"e{n:02}" for n in range(23)]
    chosen = api.client.get("/resources/Environment", params={"label": "team=vision"}).json()["items"]
    assert len(chosen) == 11


def test_kinds_are_found_by_plural_and_short_name_and_unknown_ones_are_suggested(api: Api) -> None:
    api.apply(environment("forecast"))
    for kind in ("Environment", "environments", "env", "ENVIRONMENT"):
        assert api.client.get(f"/resources/{kind}/forecast").json()["metadata"]["name"] == "forecast"
    answer = api.client.get("/resources/enviroment/forecast")
    assert answer.status_code == 404
    assert "did you mean Environment?" in answer.json()["detail"]
    assert api.client.get("/resources/env/other").json()["code"] == "not-found"


def test_watch_tells_the_present_and_every_later_state(api: Api) -> None:
    api.apply(environment("kept", "numpy==1.0"))
    told: list[tuple[str, dict[str, Any]]] = []
    began = threading.Event()

    def follow() -> None:
        event = ""
        with api.client.stream("GET", "/watch", params={"kind": "Environment", "timeout": 20}) as stream:
            for line in stream.iter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    told.append((event, json.loads(line.removeprefix("data: "))))
                    began.set()
                    if told[-1][1].get("spec", {}).get("requirements") == ["numpy==5.0"]:
                        return

    thread = threading.Thread(target=follow)
    thread.start()
    assert began.wait(10)
    for number in range(2, 6):
        api.apply(environment("kept", f"numpy=={number}.0"))
    thread.join(20)
    assert not thread.is_alive()
    assert all(event == "resource" for event, _ in told)
    generations = [document["metadata"]["generation"] for _, document in told]
    assert generations[0] == 1
    assert generations == sorted(set(generations))
    assert generations[-1] == 5


def test_watch_ends_after_its_time(api: Api) -> None:
    api.apply(environment("kept"))
    answer = api.client.get("/watch", params={"kind": "env", "name": "kept", "timeout": 0})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.count("event: resource") == 1


def test_watch_tells_at_once_that_a_single_resource_is_not_there(api: Api) -> None:
    """It may have gone between the last look and the watch: who waits for its end must not wait for nothing."""
    answer = api.client.get("/watch", params={"kind": "env", "name": "gone", "timeout": 0})
    assert answer.text.startswith("event: deleted\n")
    assert '"name":"gone"' in answer.text
    assert api.client.get("/watch", params={"kind": "env", "timeout": 0}).text == ""


def test_events_are_read_by_cursor_and_waited_for(api: Api) -> None:
    api.apply(environment("one"))
    page = api.client.get("/events", params={"wait": 5}).json()
    assert [event["reason"] for event in page["items"]] == ["Created"]
    late: list[dict[str, Any]] = []

    def wait() -> None:
        late.append(api.client.get("/events", params={"since": page["cursor"], "wait": 20}).json())

    thread = threading.Thread(target=wait)
    thread.start()
    api.apply(environment("two"))
    thread.join(20)
    assert [event["name"] for event in late[0]["items"]] == ["two"]
    assert api.client.get("/events", params={"since": "nonsense"}).status_code == 422


def test_delete_answers_with_the_resource_and_again_does_nothing_more(api: Api) -> None:
    api.apply(environment("gone"))
    for _ in range(2):
        answer = api.client.delete("/resources/env/gone")
        assert answer.status_code == 202
        assert answer.json()["resource"]["metadata"]["deleting"] is not None
    assert api.client.delete("/resources/env/never").status_code == 404


def test_a_bound_volume_of_a_waiting_job_is_not_deleted_and_not_shared(api: Api) -> None:
    volume = {"kind": "Volume", "metadata": {"name": "scratch"}, "spec": {"size": "1Gi"}}

    def job(name: str) -> dict[str, Any]:
        mounts = [{"name": "scratch", "mount_path": "/mnt/scratch"}]
        return {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": "true", "volumes": mounts}}

    api.apply(volume, job("first"))
    assert api.apply(job("first"))[0]["action"] == "unchanged"
    refused = api.client.post("/apply", json={"manifests": [job("second")]})
    assert refused.status_code == 409
    assert "attached to TrainingJob first" in refused.json()["detail"]
    kept = api.client.delete("/resources/volume/scratch")
    assert kept.status_code == 409
    assert "TrainingJob first" in kept.json()["detail"]
    noted = api.client.delete("/resources/trainingjob/first").json()["notes"]
    assert any("scratch" in note for note in noted)


def test_status_counts_kinds(api: Api) -> None:
    api.apply(environment("a"), environment("b"))
    status = api.client.get("/status").json()
    assert sum(status["counts"]["Environment"].values()) == 2
    assert status["nodes"] == []
    assert status["isolation"] is None


def test_catalogues_show_the_workspaces_own_over_the_shipped(api: Api) -> None:
    own = {"cpu": 3, "memory": "5Gi", "price_per_hour": 0.5}
    api.apply({"kind": "InstanceType", "metadata": {"name": "local.small"}, "spec": own}, environment("mine", "six"))
    types = {item["name"]: item for item in api.client.get("/instance-types").json()["items"]}
    assert types["local.small"]["resources"]["cpu"] == "3000m"
    assert types["ecs.gn7i-c8g1.2xlarge"]["resources"]["gpu"] == 1
    environments = {item["name"]: item for item in api.client.get("/environments").json()["items"]}
    assert environments["mine"]["requirements"] == ["six"]
    assert len(environments["python-data"]["digest"]) == 64
