"""The platform's metrics as one text, and the alerting rules that come with it."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import yaml

import modelworks
from modelworks.products.serving.metrics import ServiceGauges, merged, render

SOURCE = Path(modelworks.__file__).parent
RULES = yaml.safe_load((resources.files("modelworks") / "data" / "alerts.yaml").read_text())["groups"]


def test_processes_are_told_apart_and_a_family_comes_once() -> None:
    one = '# TYPE a_total counter\na_total{service="x"} 3\n# TYPE b gauge\nb 1\n'
    two = '# TYPE a_total counter\na_total{service="x",le="+Inf"} 4\n# TYPE c histogram\nc_bucket{le="1"} 0\n'
    assert merged({"gateway": one, "gateway-2": two}).splitlines() == [
        "# TYPE a_total counter",
        'a_total{process="gateway",service="x"} 3',
        'a_total{process="gateway-2",service="x",le="+Inf"} 4',
        "# TYPE b gauge",
        'b{process="gateway"} 1',
        "# TYPE c histogram",
        'c_bucket{process="gateway-2",le="1"} 0',
    ]


def test_services() -> None:
    text = render(
        [
            ServiceGauges("digits", 2, 1, 0, 4, 0.5, ("AlertErrorRate",)),
            ServiceGauges("team.fixed", 3, 3, None, None, None, ()),
        ]
    )
    assert 'mw_service_replicas_wanted{service="team.fixed"} 3' in text
    assert 'mw_service_replicas_max{service="digits"} 4' in text
    assert 'mw_service_replicas_max{service="team.fixed"}' not in text
    assert 'mw_service_p99_bound_seconds{service="digits"} 0.5' in text
    assert 'mw_service_alert{service="digits",alert="AlertErrorRate"} 1' in text


def test_rules_name_metrics_that_there_are() -> None:
    said = " ".join(path.read_text() for path in SOURCE.rglob("*.py"))
    rules = [rule for group in RULES for rule in group["rules"]]
    assert len(rules) >= 6
    for rule in rules:
        assert rule["for"], "an alert needs a breach that lasts"
        assert rule["annotations"]["summary"]
        names = set(re.findall(r"\bmw_[a-z0-9_]+", rule["expr"]))
        assert names
        for name in names:
            family = re.sub(r"_(bucket|count|sum)$", "", name)
            assert f'"{family}"' in said or f" {family} " in said, name


def test_the_rule_of_errors_sees_who_is_refused_for_want_of_a_replica() -> None:
    (rule,) = [rule for group in RULES for rule in group["rules"] if rule["alert"] == "ServiceErrorRate"]
    errors, answers = rule["expr"].split(" > ")[0].split("/")
    for part, counted in ((errors, "mw_gateway_errors_total"), (answers, "mw_gateway_request_seconds_count")):
        union = (
            f'sum by (service) (rate({counted}[2m]) or rate(mw_gateway_rejections_total{{reason="unavailable"}}[2m]))'
        )
        assert part.split("> ")[0].strip() == union


def test_latency_has_a_rule_only_where_a_service_states_a_bound() -> None:
    (rule,) = [rule for group in RULES for rule in group["rules"] if "quantile" in rule["expr"]]
    assert "mw_service_p99_bound_seconds" in rule["expr"]
