"""Groups in Ray for placements of ours: none is leaked, none granted in part, whoever is killed between two steps."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from modelworks.control.reservations import PATIENCE, Ask, Drop, Grant, Refuse, bundles, plan
from modelworks.db.claims import StoredClaim
from modelworks.db.reservations import Reservation
from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Ref
from modelworks.kernel.run import Resources
from modelworks.runtime.ray.bridge_client import BridgedGroup, Bundle

NOW = datetime(2026, 1, 1, tzinfo=UTC)
NODES = ("n1", "n2")
STEPS = ("place", "end", "age", "restart")


def stored(key: str, node: str, granted: bool) -> StoredClaim:
    wish = Claim(key, "a1", Resources.parse({"cpu": "500m", "memory": "1Gi"}), "local.tiny", 0.1)
    placed = NOW if granted else None
    return StoredClaim(wish, "uid", Ref("default", "TrainingJob", "j"), node, "", NOW, placed, None, "")


def reservation(name: str, granted: bool = False, age: float = 0.0) -> Reservation:
    claims = tuple(stored(f"{name}/{n}", node, granted) for n, node in enumerate(NODES))
    return Reservation(name, claims, granted, age)


def group(name: str, ready: bool = True, nodes: tuple[str, ...] = NODES) -> BridgedGroup:
    return BridgedGroup(name, ready, nodes)


def test_a_new_placement_asks_for_its_group_on_the_chosen_nodes() -> None:
    one = reservation("a")
    assert plan([], [one], NODES) == [Ask(one)]
    assert bundles(one) == [Bundle("n1", 500, 1 << 30), Bundle("n2", 500, 1 << 30)]


def test_what_is_ready_is_granted_once() -> None:
    assert plan([group("a")], [one := reservation("a")], NODES) == [Grant(one)]
    assert plan([group("a")], [reservation("a", granted=True)], NODES) == []


def test_what_is_not_ready_in_time_is_refused() -> None:
    early, late = reservation("a", age=PATIENCE / 2), reservation("a", age=PATIENCE + 1)
    waits = group("a", ready=False, nodes=("", ""))
    assert plan([waits], [early], NODES) == [Ask(early)]
    assert plan([waits], [late], NODES) == [Refuse(late)]
    assert plan([], [late], NODES) == [Refuse(late)]


def test_groups_without_claims_go_before_others_come() -> None:
    one = reservation("b")
    assert plan([group("a"), group("c", ready=False)], [one], NODES) == [Drop("a"), Drop("c"), Ask(one)]


def test_a_cluster_that_came_back_is_asked_again_for_what_may_live() -> None:
    one = reservation("a", granted=True, age=100.0)
    assert plan([], [one], NODES) == [Ask(one)]
    assert plan([], [one], ("n1",)) == []


def test_a_node_that_came_back_as_another_has_its_group_made_again() -> None:
    one = reservation("a", granted=True)
    waits = group("a", ready=False, nodes=("n1", ""))
    assert plan([waits], [one], ("n1",)) == []
    assert plan([waits], [one], NODES) == [Drop("a")]


def test_room_of_runs_that_have_ended_is_given_back_while_others_run() -> None:
    whole = reservation("a", granted=True)
    rest = Reservation("a", whole.claims[:1], granted=True, age=100.0)
    assert plan([group("a")], [reservation("b"), rest], NODES) == [Drop("a"), Ask(rest), Ask(reservation("b"))]
    assert plan([group("a", nodes=("n1",))], [rest], NODES) == []


class Ray:
    """What the steps do to groups, of a cluster with room for some of them."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.groups: dict[str, bool] = {}

    def seen(self) -> list[BridgedGroup]:
        return [group(name, ready, NODES if ready else ("", "")) for name, ready in self.groups.items()]

    def fill(self) -> None:
        for name in self.groups:
            if sum(self.groups.values()) < self.room:
                self.groups[name] = True


@given(
    st.integers(0, 3),
    st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from("abcd"), st.integers(0, 9))),
)
def test_whatever_happens_nothing_leaks_and_all_is_granted_or_refused(
    room: int, script: list[tuple[str, str, int]]
) -> None:
    """Each round is cut short after some steps, as by a kill; then it is left in peace."""
    ray, wanted = Ray(room), {}
    for what, name, cut in [*script, *[("rest", "", 99)] * 6]:
        match what:
            case "place":
                wanted.setdefault(name, reservation(name))
            case "end":
                wanted.pop(name, None)
            case "restart":
                ray.groups.clear()
            case _:
                wanted = {n: r if r.granted else reservation(n, age=r.age + 2) for n, r in wanted.items()}
        ray.fill()
        for step in plan(ray.seen(), list(wanted.values()), NODES)[:cut]:
            match step:
                case Ask(one):
                    ray.groups.setdefault(one.name, False)
                case Grant(one):
                    assert ray.groups[one.name]
                    wanted[one.name] = reservation(one.name, granted=True)
                case Refuse(one):
                    assert not one.granted
                    ray.groups.pop(one.name, None)
                    del wanted[one.name]
                case Drop(one):
                    del ray.groups[one]
    assert ray.groups.keys() <= wanted.keys()
    assert all(one.granted for one in wanted.values())
