"""The queue: who ends for whom, quotas, elastic jobs, and that everybody who can start does so in the end."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.kernel.decision import Claim
from modelworks.kernel.gang import Gang, Placement, Refusal, Result
from modelworks.kernel.placement import PATIENCE, place
from modelworks.kernel.quota import Limit, Quotas, counts
from modelworks.kernel.room import NOTHING, NodeView, Occupant, add, amount, fits
from modelworks.kernel.run import Resources

GI = 1024**3


def claim(key: str, cpu: int = 1, **more: object) -> Claim:
    return Claim(key, "g", Resources.parse({"cpu": cpu, "memory": "1Gi"}), "local.small", 0.1, **more)


def gang(name: str, cpu: int = 1, count: int = 1, waited: float = 0.0, workspace: str = "w", **more: object) -> Gang:
    wishes = tuple(claim(f"{name}/{rank}", cpu, **more) for rank in range(count))
    return Gang(name, wishes, waited=waited, owner=name, title=f"job {name}", workspace=workspace)


@dataclass
class Cluster:
    """Nodes of ``cpu`` cores, and what runs on them; a pass makes of it what admission writes."""

    nodes: dict[str, int]
    limits: list[Limit] = field(default_factory=list)
    running: dict[str, Occupant] = field(default_factory=dict)
    lasting: set[str] = field(default_factory=set)

    def run(self, one: Gang, nodes: list[str], since: float = 0.0, lasting: bool = False) -> None:
        """Put a gang on nodes, whatever admission would say."""
        uses: dict[str, tuple[int, int, int]] = defaultdict(lambda: NOTHING)
        for wish, node in zip(one.claims, nodes, strict=True):
            uses[node] = add(uses[node], amount(wish.resources))
        self.running[one.claims[0].key] = Occupant(
            name=one.name,
            keys=tuple(wish.key for wish in one.claims),
            uses=dict(uses),
            title=one.title,
            owner=one.owner,
            workspace=one.workspace,
            priority=one.priority,
            since=since,
            counts=counts(one.claims),
            optional=one.claims[0].optional,
            movable=one.claims[0].preemptible and not lasting,
        )
        if lasting:
            self.lasting.add(one.claims[0].key)

    def end(self, key: str) -> None:
        del self.running[key]

    def views(self) -> list[NodeView]:
        return [
            NodeView(
                name,
                Resources.parse({"cpu": cpu, "memory": "1024Gi"}),
                used=self._sum(name, list(self.running)),
                lasting=self._sum(name, [key for key in self.running if key in self.lasting]),
                leaving=self._sum(name, [key for key, one in self.running.items() if one.leaving]),
            )
            for name, cpu in self.nodes.items()
        ]

    def _sum(self, node: str, keys: list[str]) -> tuple[int, int, int]:
        total = NOTHING
        for key in keys:
            total = add(total, self.running[key].uses.get(node, NOTHING))
        return total

    def quotas(self) -> Quotas:
        used: dict[str, Counter[str]] = defaultdict(Counter)
        leaving: dict[str, Counter[str]] = defaultdict(Counter)
        lasting: dict[str, Counter[str]] = defaultdict(Counter)
        for key, one in self.running.items():
            used[one.workspace].update(one.counts)
            if one.leaving:
                leaving[one.workspace].update(one.counts)
            if key in self.lasting:
                lasting[one.workspace].update(one.counts)
        return Quotas(self.limits, used, leaving, lasting)

    def admit(self, *waiting: Gang, now: float = 0.0) -> dict[str, Result]:
        """One pass, carried out: who is placed runs, who is evicted leaves until somebody ends it."""
        results = place(waiting, self.views(), list(self.running.values()), self.quotas())
        for result in results:
            if isinstance(result, Refusal):
                for victim in result.evict:
                    key = victim.keys[0]
                    self.running[key] = replace(self.running[key], leaving=True, leaves_for=result.gang.name)
                continue
            needed = [wish for wish in result.gang.claims if not wish.optional and wish.key in result.nodes]
            extra = [[wish] for wish in result.gang.claims if wish.optional and wish.key in result.nodes]
            for part in [needed, *extra] if needed else extra:
                self.run(result.gang._replace(claims=tuple(part)), [result.nodes[w.key] for w in part], since=now)
        self.check()
        return {result.gang.name: result for result in results}

    def check(self) -> None:
        for view in self.views():
            assert fits(view.used, amount(view.capacity)), view
        held: dict[str, Counter[str]] = defaultdict(Counter)
        for one in self.running.values():
            held[one.workspace].update(one.counts)
        for limit in self.limits:
            for name, most in limit.most.items():
                assert held[limit.workspace][name] <= most, limit


def victims(result: Result) -> list[str]:
    assert isinstance(result, Refusal)
    return sorted(one.name for one in result.evict)


def reason(result: Result) -> str:
    assert isinstance(result, Refusal)
    return result.reason


def placed(result: Result) -> int:
    return len(result.nodes) if isinstance(result, Placement) else 0


def test_the_lowest_and_then_the_youngest_go() -> None:
    cluster = Cluster({"a": 3})
    for name, priority, since in (("old", 1, 10.0), ("young", 1, 20.0), ("high", 2, 30.0)):
        cluster.run(gang(name, preemptible=True, priority=priority), ["a"], since=since)
    result = cluster.admit(gang("x", priority=5))["x"]
    assert victims(result) == ["young"]
    assert reason(result) == "waits until job young has ended, preempted for it: needs 1 CPU, 1Gi memory"


def test_one_large_one_goes_rather_than_many_small() -> None:
    cluster = Cluster({"a": 3, "b": 3})
    cluster.run(gang("large", 3, preemptible=True), ["a"], since=1.0)
    for name in ("p", "q", "r"):
        cluster.run(gang(name, preemptible=True), ["b"], since=9.0)
    assert victims(cluster.admit(gang("x", 3, priority=5))["x"]) == ["large"]


def test_whole_gangs_go_and_no_more_than_needed() -> None:
    cluster = Cluster({"a": 2, "b": 2})
    cluster.run(gang("pair", count=2, preemptible=True), ["a", "b"], since=2.0)
    cluster.run(gang("left", preemptible=True), ["a"], since=1.0)
    cluster.run(gang("right", preemptible=True), ["b"], since=1.0)
    assert victims(cluster.admit(gang("x", priority=5, count=2))["x"]) == ["pair"]


@pytest.mark.parametrize(
    ("kept", "lasting"),
    [
        (gang("kept", preemptible=False), False),
        (gang("kept", preemptible=True), True),
        (gang("kept", preemptible=True, priority=5), False),
    ],
)
def test_who_never_goes(kept: Gang, lasting: bool) -> None:
    cluster = Cluster({"a": 1})
    cluster.run(kept, ["a"], lasting=lasting)
    result = cluster.admit(gang("x", priority=5))["x"]
    assert victims(result) == []
    assert reason(result).startswith("waits for capacity")


def test_nobody_goes_for_who_would_wait_all_the_same() -> None:
    cluster = Cluster({"a": 2, "b": 2})
    cluster.run(gang("low", preemptible=True), ["a"])
    cluster.run(gang("fixed", 2), ["b"])
    assert victims(cluster.admit(gang("x", 2, priority=5, count=2))["x"]) == []


def test_what_becomes_free_is_kept_for_whom_it_was_made_free() -> None:
    cluster = Cluster({"a": 2})
    for name in ("p", "q"):
        cluster.run(gang(name, preemptible=True), ["a"])
    big, small = gang("big", 2, priority=5, waited=1), gang("small", priority=4, waited=100)
    assert victims(cluster.admit(big)["big"]) == ["p", "q"]
    cluster.end("p/0")
    results = cluster.admit(big, small)
    assert (victims(results["big"]), placed(results["small"])) == ([], 0)
    cluster.end("q/0")
    results = cluster.admit(big, small)
    assert (placed(results["big"]), placed(results["small"])) == (1, 0)


def test_a_higher_one_may_take_it_and_then_more_go() -> None:
    cluster = Cluster({"a": 2})
    for name in ("p", "q"):
        cluster.run(gang(name, preemptible=True), ["a"])
    first = gang("first", priority=5)
    assert len(victims(cluster.admit(first)["first"])) == 1
    (leaving,) = [key for key, one in cluster.running.items() if one.leaving]
    cluster.end(leaving)
    results = cluster.admit(first, gang("higher", priority=9))
    assert placed(results["higher"]) == 1
    assert len(victims(results["first"])) == 1


def test_who_leaves_makes_room_for_the_first_that_it_is_enough_for() -> None:
    cluster = Cluster({"a": 2})
    cluster.run(gang("gone"), ["a"])
    cluster.running["gone/0"] = replace(cluster.running["gone/0"], leaving=True)
    results = cluster.admit(gang("pair", 2, waited=5), gang("single", waited=1))
    assert "room for it is being given back" in reason(results["pair"])
    assert placed(results["single"]) == 0


def elastic(whole: Gang, least: int) -> Gang:
    return whole._replace(claims=tuple(replace(wish, optional=rank >= least) for rank, wish in enumerate(whole.claims)))


def test_an_elastic_job_grows_into_what_others_leave() -> None:
    cluster = Cluster({"a": 4})
    results = cluster.admit(elastic(gang("e", count=4, waited=9), 1), gang("x", waited=1))
    assert placed(results["x"]) == 1
    assert placed(results["e"]) == 3
    assert results["e"].reason == "waits for room that nobody else needs: 1 CPU, 1Gi memory"


def test_what_an_elastic_job_grew_to_goes_first_also_for_an_equal() -> None:
    cluster = Cluster({"a": 4})
    cluster.run(gang("low", preemptible=True, priority=-5), ["a"])
    cluster.admit(elastic(gang("e", count=4, preemptible=True), 1))
    result = cluster.admit(gang("x", 2))["x"]
    assert isinstance(result, Refusal)
    assert [(one.name, one.optional) for one in result.evict] == [("e", True), ("e", True)]


def test_with_an_elastic_job_go_all_of_its_replicas() -> None:
    cluster = Cluster({"a": 2, "b": 1})
    whole = elastic(gang("e", count=2, preemptible=True), 1)
    cluster.run(whole._replace(claims=whole.claims[:1]), ["a"])
    cluster.run(whole._replace(claims=whole.claims[1:]), ["b"])
    cluster.run(gang("fixed"), ["a"])
    cluster.end("fixed/0")
    result = cluster.admit(gang("x", 2, priority=3))["x"]
    assert victims(result) == ["e", "e"]


def test_a_quota_is_counted_over_all_that_its_workspace_holds() -> None:
    cluster = Cluster({"a": 9}, [Limit("q", "w", {"instance:local.small": 2})])
    results = cluster.admit(*(gang(name, waited=-ord(name)) for name in "abc"), gang("other", workspace="v"))
    assert [placed(results[name]) for name in ("a", "b", "c", "other")] == [1, 1, 0, 1]
    assert reason(results["c"]) == (
        "waits for the quota q of workspace w: needs 1 × local.small, 2 × local.small of 2 × local.small are in use"
    )


def test_a_gang_beyond_a_quota_keeps_no_node() -> None:
    cluster = Cluster({"a": 9}, [Limit("q", "w", {"cpu": 2000})])
    results = cluster.admit(gang("pair", count=3, waited=PATIENCE), gang("one", waited=1), gang("v", 9, workspace="v"))
    assert reason(results["pair"]) == "larger than the quota q of workspace w: needs 3 CPU of 2 CPU"
    assert placed(results["one"]) == 1


def test_no_money_holds_jobs_and_no_service() -> None:
    cluster = Cluster({"a": 9}, [Limit("q", "w", spent="waits for money: it is spent")])
    results = cluster.admit(gang("job"), gang("service", lasting=True))
    assert reason(results["job"]) == "waits for money: it is spent"
    assert placed(results["service"]) == 1


def test_who_is_beyond_its_quota_takes_room_from_its_own_workspace() -> None:
    cluster = Cluster({"a": 9}, [Limit("q", "w", {"cpu": 2000})])
    cluster.run(gang("theirs", workspace="v", preemptible=True), ["a"], since=9.0)
    cluster.run(gang("p", preemptible=True), ["a"], since=1.0)
    cluster.run(gang("q", preemptible=True), ["a"], since=2.0)
    high = gang("x", priority=5)
    assert victims(cluster.admit(high)["x"]) == ["q"]
    assert placed(cluster.admit(high, gang("y", priority=1))["y"]) == 0
    cluster.end("q/0")
    results = cluster.admit(high, gang("y", priority=1))
    assert (placed(results["x"]), placed(results["y"])) == (1, 0)


def test_far_behind_the_reason_does_not_change_with_every_end() -> None:
    cluster = Cluster({"a": 1})
    cluster.run(gang("busy"), ["a"])
    waiting = [gang(f"{n:03}", waited=1000 - n) for n in range(150)]
    told = [reason(result) for result in cluster.admit(*waiting).values()]
    assert told[99].endswith("node a has 0 CPU free of 1, 1023Gi memory free of 1Ti")
    assert told[100] == "waits for capacity: needs 1 CPU, 1Gi memory; more than 100 wait before it"


jobs = st.lists(
    st.tuples(
        st.integers(1, 3),  # cpu
        st.integers(1, 3),  # replicas
        st.integers(0, 2),  # priority
        st.booleans(),  # preemptible
        st.integers(1, 4),  # how many passes it takes
        st.sampled_from("wv"),
        st.booleans(),  # elastic
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(jobs, st.dictionaries(st.sampled_from("ab"), st.integers(1, 4), min_size=1), st.none() | st.integers(1, 6))
def test_everybody_who_fits_when_all_is_empty_ends_in_the_end(
    wishes: list[tuple[int, int, int, bool, int, str, bool]], nodes: dict[str, int], cpus: int | None
) -> None:
    """Jobs of finite length, evicted ones begin anew: no pass exceeds anything, none is lost, all that can run do."""
    limits = [] if cpus is None else [Limit("q", "w", {"cpu": cpus * 1000})]
    jobs: dict[str, Gang] = {}
    lengths: dict[str, int] = {}
    for number, (cpu, count, priority, preemptible, length, workspace, grows) in enumerate(wishes):
        name = f"j{number}"
        one = gang(name, cpu, count, priority=priority, preemptible=preemptible, workspace=workspace)
        one = elastic(one, 1) if grows else one
        if placed(Cluster(nodes, list(limits)).admit(one)[name]):
            jobs[name], lengths[name] = one, length
    waiting = dict(jobs)
    cluster, left = Cluster(nodes, limits), dict.fromkeys(waiting, 0)
    # Each that is evicted is so for one of higher priority, which then runs: more passes than this are never needed.
    for now in range(40 * len(wishes) + 40):
        queued = [one._replace(waited=float(now * 60)) for one in waiting.values()]
        for name, result in cluster.admit(*queued, now=float(now)).items():
            if not isinstance(result, Placement):
                continue
            one = waiting.pop(name)
            if any(not wish.optional for wish in one.claims):
                left[name] = lengths[name]
            rest = tuple(wish for wish in one.claims if wish.key not in result.nodes)
            if rest:
                waiting[name] = one._replace(claims=rest)
        for name in list(left):
            keys = [key for key, one in cluster.running.items() if one.name == name]
            gone = [key for key in keys if cluster.running[key].leaving]
            left[name] -= 1 if keys else 0
            whole = [key for key in gone if not cluster.running[key].optional]
            if whole:
                for key in keys:
                    cluster.end(key)
                waiting[name] = jobs[name]
            elif keys and left[name] <= 0:
                for key in keys:
                    cluster.end(key)
                waiting.pop(name, None)
                del left[name]
            else:
                for key in gone:
                    cluster.end(key)
        if not left:
            return
    raise AssertionError(f"still there: {sorted(left)}")


@pytest.mark.parametrize("by_quota", [False, True])
@settings(max_examples=20, deadline=None)
@given(st.integers(2, 4), st.integers(2, 5))
def test_a_stream_of_small_ones_does_not_starve_the_head(by_quota: bool, cpus: int, length: int) -> None:
    """Small jobs come for ever; a large one starts within its patience and what the longest of them takes."""
    cluster = Cluster({"a": cpus if not by_quota else 100}, [Limit("q", "w", {"cpu": cpus * 1000})] if by_quota else [])
    step, queue, began, ends = 60.0, dict[str, Gang](), dict[str, float](), dict[str, float]()
    for number in range(100):
        now = number * step
        come = [gang(f"s{number:03}{index}") for index in range(cpus)]
        come += [gang("head", cpus)] if number == 1 else []
        for one in come:
            queue[one.name], began[one.name] = one, now
        results = cluster.admit(*(one._replace(waited=now - began[one.name]) for one in queue.values()))
        for name, result in results.items():
            if placed(result):
                del queue[name]
                ends[f"{name}/0"] = now + (length - len(ends) % 2) * step
        if number >= 1 and "head" not in queue:
            assert 0 < now - began["head"] <= 300.0 + (length + 1) * step
            return
        for key in [key for key, at in ends.items() if at <= now + step]:
            cluster.end(key)
            del ends[key]
    raise AssertionError("the head starved")


def test_who_waits_alone_is_told_who_has_the_room_the_largest_first() -> None:
    cluster = Cluster({"a": 4, "b": 1})
    cluster.run(gang("small"), ["a"])
    cluster.run(gang("large", 2, lasting=True), ["a"])
    cluster.run(gang("far"), ["b"])
    told = reason(cluster.admit(gang("x", 2))["x"])
    assert told.endswith("; in use by job large (2 CPU, 1Gi memory), job small (1 CPU, 1Gi memory)")
    many = [gang(f"y{number}", 2) for number in range(20)]
    assert "in use" not in reason(cluster.admit(*many)["y0"])
