"""Where outputs are written when a node may be cut off, and what of them becomes the job's."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from tests.job_loop import UID, job, key, loop
from tests.simulated import START, Loop, World

from modelworks.kernel.decision import Claim, CopyObjects, Release, Remove, RemoveObjects
from modelworks.kernel.run import RunReason

TARGET = "s3://weights/best/"
OWN = f"s3://weights/.modelworks/attempts/{UID}/"


class Cluster(World):
    """All its nodes may be cut off."""

    def _reserve(self, claim: Claim) -> None:
        super()._reserve(claim)
        self.claims[claim.key] = replace(self.claims[claim.key], leased=True)


def leased(output: str | None = TARGET, **spec: object) -> Loop:
    resource = job(**spec)
    return loop(replace(resource, resolved={**resource.resolved, **({"output": output} if output else {})}), Cluster())


def complete(one: Loop, rank: int = 0, attempt: int = 1) -> None:
    """The run commits its model where it was told to write it."""
    run = key(attempt, rank)
    one.world.start(run)
    uri = one.world.specs[run].outputs[0].uri
    one.world.end(run)
    outputs = {"model": {"uri": uri, "digest": "d", "size": 1}}
    one.world.runs[run] = one.world.runs[run].model_copy(update={"outputs": outputs})


def test_each_attempt_writes_below_its_own_and_the_winner_is_copied() -> None:
    one = leased(replicas=2)
    one.settle()
    for rank in (0, 1):
        spec = one.world.specs[key(1, rank)]
        assert spec.outputs[0].uri == f"{OWN}a1/{rank}/"
        assert not any(uri.startswith("s3://weights/best") for uri in spec.access.write)
        complete(one, rank)
    decision = one.step()
    targets = [TARGET, "s3://weights/best.rank1/"]
    assert [a for a in decision.actions if isinstance(a, CopyObjects)] == [
        CopyObjects(f"{OWN}a1/{rank}/", target) for rank, target in enumerate(targets)
    ]
    assert decision.actions.index(RemoveObjects(OWN)) > decision.actions.index(CopyObjects(f"{OWN}a1/1/", targets[1]))
    # Its room is free while the store copies.
    assert isinstance(decision.actions[0], Release)
    assert [output["uri"] for output in one.status["outputs"]] == targets


@pytest.mark.parametrize("root", ["s3://weights/", "s3://weights"])
def test_of_an_output_that_is_a_whole_bucket_the_others_folders_are_in_it(root: str) -> None:
    one = leased(root, replicas=3)
    one.settle()
    for rank in range(3):
        complete(one, rank)
    one.step()
    assert [output["uri"] for output in one.status["outputs"]] == [root, "s3://weights/.rank1/", "s3://weights/.rank2/"]


def test_a_second_attempt_has_a_folder_of_its_own() -> None:
    one = leased()
    one.settle()
    one.world.end(key(1), RunReason.LOST)
    one.settle()
    one.pass_time(2.0)
    assert one.world.specs[key(2)].outputs[0].uri == f"{OWN}a2/0/"


@pytest.mark.parametrize("output", [TARGET, None])
def test_on_a_node_that_nothing_cuts_off_nothing_is_copied(output: str | None) -> None:
    resource = job()
    one = loop(replace(resource, resolved={**resource.resolved, **({"output": output} if output else {})}))
    one.settle()
    wanted = output or f"s3://mw-default/jobs/digits/{UID}/a1/"
    assert one.world.specs[key()].outputs[0].uri == wanted
    complete(one)
    assert not any(isinstance(action, CopyObjects) for action in one.step().actions)
    assert [found["uri"] for found in one.status["outputs"]] == [wanted]


def test_without_a_named_folder_every_attempt_has_its_own_anyway() -> None:
    one = leased(output=None)
    one.settle()
    assert one.world.specs[key()].outputs[0].uri == f"s3://mw-default/jobs/digits/{UID}/a1/"


def test_what_nobody_copied_goes_with_the_job() -> None:
    one = leased()
    one.settle()
    one.world.end(key(), RunReason.FAILED, 1)
    one.settle()
    one.resource = replace(one.resource, deleting=datetime.fromtimestamp(START, UTC))
    one.step()
    decision = one.step()
    assert decision.actions[-2:] == (RemoveObjects(OWN), Remove())
