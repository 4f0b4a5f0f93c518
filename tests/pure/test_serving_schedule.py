"""Replicas by the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from modelworks.products.serving.scaling_spec import Autoscaling
from modelworks.products.serving.schedule import Floor, floor, problems


def scaling(*schedules: tuple[str, str, int], timezone: str = "UTC", **fields: Any) -> Autoscaling:
    documents = [
        {"name": name, "schedule": cron, "replicas": replicas, "timezone": timezone}
        for name, cron, replicas in schedules
    ]
    return Autoscaling.parse({"min": 0, "max": 50, "schedules": documents} | fields)


def at(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def since(spec: Autoscaling, begun: str, now: str) -> Floor:
    return floor(spec, floor(spec, {}, at(begun)).state, at(now))


DAY = (("day", "0 0 8 * * *", 10), ("night", "0 0 20 * * *", 2))


@pytest.mark.parametrize(
    ("now", "replicas", "following"),
    [
        ("2026-03-02T07:59:59", 0, "2026-03-02T08:00:00"),
        ("2026-03-02T08:00:00", 10, "2026-03-02T20:00:00"),
        ("2026-03-02T19:59:59", 10, "2026-03-02T20:00:00"),
        ("2026-03-02T20:00:01", 2, "2026-03-03T08:00:00"),
        ("2026-03-05T07:00:00", 2, "2026-03-05T08:00:00"),
    ],
)
def test_the_schedule_that_fired_last_counts(now: str, replicas: int, following: str) -> None:
    found = since(scaling(*DAY), "2026-03-02T06:00:00", now)
    assert found.replicas == replicas
    assert found.next_at == at(following)


def test_what_was_before_the_schedule_was_seen_does_not_fire_it() -> None:
    spec = scaling(("new-year", "0 0 9 1 1 *", 40))
    assert since(spec, "2026-03-02T06:00:00", "2026-03-02T06:00:01").replicas == 0
    assert since(spec, "2026-03-02T06:00:00", "2027-01-01T09:00:00").replicas == 40


def test_a_changed_schedule_begins_anew() -> None:
    state = floor(scaling(*DAY), {}, at("2026-03-02T06:00:00")).state
    changed = scaling(("day", "0 0 8 * * *", 12), DAY[1])
    assert floor(changed, state, at("2026-03-02T09:00:00")).replicas == 0
    assert floor(scaling(*DAY), state, at("2026-03-02T09:00:00")).replicas == 10


def test_five_fields_begin_with_the_minute_and_a_question_mark_is_any_day() -> None:
    assert since(scaling(("a", "30 8 * * *", 3)), "2026-03-02T06:00:00", "2026-03-02T08:30:00").replicas == 3
    assert since(scaling(("a", "5 30 8 ? * MON", 3)), "2026-03-02T06:00:00", "2026-03-02T08:30:04").replicas == 0
    assert since(scaling(("a", "5 30 8 ? * MON", 3)), "2026-03-02T06:00:00", "2026-03-02T08:30:05").replicas == 3


def test_the_time_zone_and_its_summer() -> None:
    spec = scaling(("day", "0 0 8 * * *", 10), timezone="Europe/Berlin")
    assert since(spec, "2026-03-27T12:00:00", "2026-03-28T06:59:59").next_at == at("2026-03-28T07:00:00")
    assert since(spec, "2026-03-27T12:00:00", "2026-03-29T06:00:00").at == at("2026-03-29T06:00:00")


def test_no_schedule_fires_on_an_excluded_day() -> None:
    spec = scaling(*DAY, exclude_dates=["2026-03-03", "2026-03-04"])
    found = since(spec, "2026-03-02T06:00:00", "2026-03-03T12:00:00")
    assert found.replicas == 2
    assert found.next_at == at("2026-03-05T08:00:00")
    assert since(spec, "2026-03-02T06:00:00", "2026-03-04T23:00:00").at == at("2026-03-02T20:00:00")
    each_second = scaling(("always", "* * * * * *", 1), exclude_dates=["2026-03-03"])
    assert since(each_second, "2026-03-02T06:00:00", "2026-03-03T12:00:00").at == at("2026-03-02T23:59:59")


def test_of_two_at_the_same_time_the_larger_counts() -> None:
    spec = scaling(("a", "0 0 8 * * *", 3), ("b", "0 0 8 * * *", 7))
    assert since(spec, "2026-03-02T06:00:00", "2026-03-02T09:00:00").name == "b"


def test_mistakes_are_told_with_their_path() -> None:
    spec = scaling(("a", "0 0 25 * * *", 3), ("b", "0 8 * * * * *", 3), ("c", "0 0 8 31 2 *", 3))
    found = problems(spec, "spec.autoscaling")
    assert [problem.path for problem in found] == [f"spec.autoscaling.schedules[{n}].schedule" for n in range(3)]
    assert "Bad hour" in found[0].message
    found = problems(scaling(*DAY, timezone="Mars/Olympus"), "spec.autoscaling")
    assert [problem.path for problem in found] == [f"spec.autoscaling.schedules[{n}].timezone" for n in range(2)]
    assert not problems(scaling(*DAY, timezone="Europe/Berlin"), "spec.autoscaling")
