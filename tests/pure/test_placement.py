"""Placement: capacity is never exceeded, gangs are whole, every refusal says why, and a blocked head gets its turn."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.kernel.decision import Claim
from modelworks.kernel.gang import Gang, Placement, Refusal
from modelworks.kernel.placement import PATIENCE, place
from modelworks.kernel.room import NodeView, add, amount, fits, subtract
from modelworks.kernel.run import Resources

GI = 1024**3


def resources(cpu: int = 1000, memory: int = GI, gpu: int = 0, **more: object) -> Resources:
    return Resources.parse({"cpu": f"{cpu}m", "memory": memory, "gpu": gpu, **more})


def claim(key: str, gang: str = "g", **more: object) -> Claim:
    fields = {k: more.pop(k) for k in list(more) if k in ("cpu", "memory", "gpu", "gpu_model", "gpu_memory")}
    return Claim(key, gang, resources(**fields), "local.small", 0.1, **more)


def single(name: str, waited: float = 0.0, **more: object) -> Gang:
    return Gang(name, (claim(name, name, **more),), waited=waited, owner=name, title=f"job {name}")


def node(name: str = "a", cpu: int = 2000, memory: int = 4 * GI, gpu: int = 0, **more: object) -> NodeView:
    return NodeView(name, resources(cpu, memory, gpu), **more)


def only(gang: Gang, *nodes: NodeView) -> Placement | Refusal:
    (result,) = place([gang], nodes)
    return result


def reason(gang: Gang, *nodes: NodeView) -> str:
    result = only(gang, *nodes)
    assert isinstance(result, Refusal)
    return result.reason


def placed_on(results: list[Placement | Refusal]) -> dict[str, str]:
    return {key: where for result in results if isinstance(result, Placement) for key, where in result.nodes.items()}


def test_places_what_fits() -> None:
    assert placed_on([only(single("x"), node())]) == {"x": "a"}


@pytest.mark.parametrize(
    ("gang", "nodes", "said"),
    [
        (single("x"), [], "no node has reported yet"),
        (single("x", memory=96 * GI), [node()], "larger than any node: needs 96Gi memory, the largest has 4Gi memory"),
        (single("x", cpu=64000), [node()], "larger than any node: needs 64 CPU, the largest has 2 CPU"),
        (single("x", gpu=1), [node()], "larger than any node: needs 1 GPU, the largest has 0 GPU"),
        (
            single("x", cpu=4000, memory=8 * GI),
            [node("a", cpu=8000, memory=GI), node("b", cpu=1000, memory=64 * GI)],
            "larger than any node: no node has 4 CPU, 8Gi memory together",
        ),
        (
            single("x", cpu=1500),
            [node(used=(1000, GI, 0))],
            "waits for capacity: needs 1500m CPU, 1Gi memory; node a has 1 CPU free of 2, 3Gi memory free of 4Gi",
        ),
        (single("x", node_selector={"disk": "fast"}), [node()], "no node has label disk=fast"),
        (single("x"), [node(taints=("gpu=true",))], "taint gpu=true is not tolerated"),
        (single("x"), [node(cordoned=True)], "node a is cordoned"),
        (single("x"), [node(away=True)], "node a does not answer"),
        (
            single("x"),
            [node("a", cordoned=True), node("b", away=True)],
            "no node may take it: node a is cordoned (1 of 2 nodes); node b does not answer (1 of 2 nodes)",
        ),
        (single("x", gpu=1, gpu_model="T4"), [node(gpu=1)], "no node has GPU T4"),
        (
            Gang("g", tuple(claim(str(n)) for n in range(5))),
            [node()],
            "larger than all nodes together: needs 5 × (1 CPU, 1Gi memory), more than they have when empty",
        ),
    ],
)
def test_says_why_not(gang: Gang, nodes: list[NodeView], said: str) -> None:
    assert reason(gang, *nodes) == said


def test_names_the_nodes_with_the_most_room() -> None:
    nodes = [node(f"n{i}", used=(2000 - i * 100, 0, 0)) for i in range(8)]
    said = reason(single("x"), *nodes)
    assert "node n7 has 700m CPU free of 2" in said
    assert "5 more nodes have no more" in said


def test_a_taint_is_tolerated_by_itself_or_its_key() -> None:
    tainted = node(taints=("gpu=true",))
    assert isinstance(only(single("x", tolerations=("gpu",)), tainted), Placement)
    assert isinstance(only(single("x", tolerations=("gpu=true",)), tainted), Placement)
    assert isinstance(only(single("x", tolerations=("gp",)), tainted), Refusal)


def test_priority_then_age() -> None:
    gangs = [single("young", 1), single("old", 2), single("urgent", 0, priority=5)]
    results = place(gangs, [node(cpu=2000)])
    assert [result.gang.name for result in results] == ["urgent", "old", "young"]
    assert set(placed_on(results)) == {"urgent", "old"}


def test_packs_rather_than_scatters() -> None:
    nodes = [node("a"), node("b", used=(1000, 0, 0))]
    assert placed_on([only(single("x"), *nodes)]) == {"x": "b"}


def test_keeps_gpu_nodes_for_gpu_work() -> None:
    nodes = [node("gpu", gpu=1, used=(1000, 0, 0)), node("plain")]
    assert placed_on([only(single("x"), *nodes)]) == {"x": "plain"}


def test_spreads_over_zones() -> None:
    nodes = [node(f"{zone}{i}", labels={"zone": zone}) for zone in "ab" for i in range(2)]
    gang = Gang("g", tuple(claim(str(n), spread="zone") for n in range(4)))
    zones = [where[0] for where in placed_on([only(gang, *nodes)]).values()]
    assert sorted(zones) == ["a", "a", "b", "b"]


def test_spreads_replicas_that_come_one_by_one() -> None:
    nodes = [node("a", labels={"zone": "a"}), node("b", labels={"zone": "b"})]
    second = Gang("s", (claim("s", spread="zone"),), owner="service", peers=("a",))
    assert placed_on([only(second, *nodes)]) == {"s": "b"}


def test_small_ones_pass_a_blocked_head() -> None:
    results = place([single("big", 10, cpu=2000), single("small", 1)], [node(used=(1000, 0, 0))])
    assert set(placed_on(results)) == {"small"}


def test_until_the_head_has_waited_long() -> None:
    results = place([single("big", PATIENCE, cpu=2000), single("small", 1)], [node(used=(1000, 0, 0))])
    assert placed_on(results) == {}
    (refused,) = [r for r in results if isinstance(r, Refusal) and r.gang.name == "small"]
    assert "waits behind job big" in refused.reason


def test_others_still_use_nodes_that_the_head_cannot() -> None:
    nodes = [node("a", used=(1000, 0, 0)), node("b", cpu=1000)]
    results = place([single("big", PATIENCE, cpu=2000), single("small", 1)], nodes)
    assert placed_on(results) == {"small": "b"}


def test_a_head_that_waits_for_a_service_holds_nobody_back() -> None:
    results = place(
        [single("big", PATIENCE, cpu=2000), single("small", 1)], [node(used=(1000, 0, 0), lasting=(1000, 0, 0))]
    )
    assert set(placed_on(results)) == {"small"}


def test_a_head_that_never_fits_holds_nobody_back() -> None:
    results = place([single("big", PATIENCE, cpu=64000), single("small", 1)], [node()])
    assert set(placed_on(results)) == {"small"}


amounts = st.tuples(st.integers(1, 4000), st.integers(1, 8).map(lambda n: n * GI), st.integers(0, 2))
labels = st.dictionaries(st.sampled_from(["zone", "disk"]), st.sampled_from(["x", "y"]), max_size=2)
taints = st.lists(st.sampled_from(["gpu=true", "spot"]), max_size=2, unique=True).map(tuple)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[list[Gang], list[NodeView]]:
    nodes = []
    for index in range(draw(st.integers(0, 5))):
        capacity, used = draw(amounts), draw(amounts)
        view = node(
            f"n{index}", *capacity, used=used, labels=draw(labels), taints=draw(taints), cordoned=draw(st.booleans())
        )
        nodes.append(view)
    gangs = []
    for index in range(draw(st.integers(0, 8))):
        spread = draw(st.sampled_from([None, "zone"]))
        members = tuple(
            claim(
                f"{index}-{rank}",
                str(index),
                **dict(zip(("cpu", "memory", "gpu"), draw(amounts), strict=True)),
                node_selector=draw(labels),
                tolerations=draw(taints),
                spread=spread,
                priority=draw(st.integers(0, 2)),
            )
            for rank in range(draw(st.integers(1, 3)))
        )
        gangs.append(
            Gang(str(index), members, waited=draw(st.sampled_from([0.0, 10.0, PATIENCE + 1])), owner=str(index))
        )
    return gangs, nodes


@settings(max_examples=150, deadline=None)
@given(clusters())
def test_what_always_holds(cluster: tuple[list[Gang], list[NodeView]]) -> None:
    gangs, nodes = cluster
    results = place(gangs, nodes)
    assert results == place(list(reversed(gangs)), list(reversed(nodes)))
    assert sorted(result.gang.name for result in results) == sorted(gang.name for gang in gangs)

    by_name = {view.name: view for view in nodes}
    load = defaultdict(lambda: (0, 0, 0))
    for result in results:
        if isinstance(result, Refusal):
            assert result.reason
            assert "\n" not in result.reason
            continue
        assert set(result.nodes) == {member.key for member in result.gang.claims}
        for member in result.gang.claims:
            view = by_name[result.nodes[member.key]]
            load[view.name] = add(load[view.name], amount(member.resources))
            assert not view.cordoned
            assert all(view.labels.get(key) == value for key, value in member.node_selector.items())
            assert all(taint in member.tolerations for taint in view.taints)
    for name, used in load.items():
        assert fits(used, subtract(amount(by_name[name].capacity), by_name[name].used))


@settings(max_examples=100, deadline=None)
@given(clusters())
def test_the_first_is_refused_only_when_it_does_not_fit(cluster: tuple[list[Gang], list[NodeView]]) -> None:
    """A single claim at the head of the queue takes any node that may and can hold it."""
    gangs, nodes = cluster
    results = place(gangs, nodes)
    if not results or len(results[0].gang.claims) > 1 or isinstance(results[0], Placement):
        return
    (wish,) = results[0].gang.claims
    for view in nodes:
        may = (
            not view.cordoned
            and all(view.labels.get(key) == value for key, value in wish.node_selector.items())
            and all(taint in wish.tolerations for taint in view.taints)
        )
        assert not (may and fits(amount(wish.resources), subtract(amount(view.capacity), view.used)))


@pytest.mark.parametrize(("avoid", "wanted"), [("", "a"), ("a", "b"), ("b", "a"), ("gone", "a")])
def test_a_node_to_avoid_is_the_last_that_is_taken(avoid: str, wanted: str) -> None:
    nodes = (node("a", cpu=2000), node("b", cpu=8000))
    one = single("x", avoid=avoid)
    assert placed_on([only(one, *nodes)]) == {"x": wanted}
    assert placed_on([only(one, nodes[0])]) == {"x": "a"}
