"""What is decided about buckets and volumes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from modelworks.kernel.decision import (
    Emit,
    EnsureBucket,
    EnsureDirectory,
    Meter,
    Remove,
    RemoveBucket,
    RemoveDirectory,
)
from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.storage.decide import GIB, decide_bucket, decide_volume
from modelworks.products.storage.observe import BucketObserved, VolumeObserved
from modelworks.products.storage.queries import Usage
from modelworks.products.storage.spec import VolumeSpec

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def resource(kind: str, spec: dict[str, Any] | None = None, **more: Any) -> Resource:
    return Resource("abcdef123456", Ref("default", kind, "data"), 1, spec or {}, NOW, NOW, **more)


def test_a_new_bucket_is_made_and_then_left_alone() -> None:
    first = decide_bucket(resource("Bucket"), BucketObserved(None, 1.0), NOW)
    assert first.actions == (EnsureBucket("data"),)
    again = decide_bucket(resource("Bucket", status=dict(first.status)), BucketObserved(None, 1.0), NOW)
    assert (again.actions, again.status, again.wake_in) == ((), first.status, None)


def test_measured_bytes_are_metered_once() -> None:
    made = decide_bucket(resource("Bucket"), BucketObserved(None, 0.5), NOW).status
    observed = BucketObserved(Usage(2 * GIB, 3, NOW), 0.5)
    measured = decide_bucket(resource("Bucket", status=dict(made)), observed, NOW)
    assert measured.actions == (Meter("abcdef123456/storage", "storage", 2.0, "GiB", 0.5),)
    assert measured.status["message"] == "2Gi in 3 objects"
    assert decide_bucket(resource("Bucket", status=dict(measured.status)), observed, NOW).actions == ()
    emptied = BucketObserved(Usage(0, 0, NOW), 0.5)
    (ended,) = decide_bucket(resource("Bucket", status=dict(measured.status)), emptied, NOW).actions
    assert isinstance(ended, Meter)
    assert ended.ended


def test_a_deleting_bucket_is_tried_again_and_told_once() -> None:
    first = decide_bucket(resource("Bucket", deleting=NOW), BucketObserved(None, 1.0), NOW)
    assert first.actions == (RemoveBucket("data"), Remove())
    assert first.status["phase"] == "Deleting"
    assert first.wake_in is not None
    again = decide_bucket(resource("Bucket", deleting=NOW, status=dict(first.status)), BucketObserved(None, 1.0), NOW)
    assert again.actions == (RemoveBucket("data", quiet=True), Remove())


def test_a_volume_is_metered_from_its_first_day_to_its_last() -> None:
    spec = {"size": 3 * GIB, "shared": False}
    observed = VolumeObserved("/home/volumes", 0.25)
    first = decide_volume(resource("Volume", spec), observed, NOW)
    path = "/home/volumes/abcdef123456"
    meter = Meter("abcdef123456/volume", "volume", 3.0, "GiB", 0.25)
    assert first.actions == (EnsureDirectory(path, 3 * GIB), meter)
    status = dict(first.status)
    assert decide_volume(resource("Volume", spec, status=status), observed, NOW).actions == ()
    last = decide_volume(resource("Volume", spec, status=status, deleting=NOW), observed, NOW)
    assert last.actions[0] == RemoveDirectory(path)
    assert isinstance(last.actions[1], Meter)
    assert last.actions[1].ended
    assert last.actions[2] == Remove()


def test_a_users_own_directory_is_neither_made_nor_removed() -> None:
    for deleting in (None, NOW):
        own = resource("Volume", {"size": GIB}, resolved={"path": "/srv/nfs"}, deleting=deleting)
        actions = decide_volume(own, VolumeObserved("/home/volumes", 1.0), NOW).actions
        assert not any(isinstance(action, EnsureDirectory | RemoveDirectory) for action in actions)


def test_an_attached_volume_stays_and_says_what_it_waits_for() -> None:
    observed = VolumeObserved("/v", 1.0, (Ref("default", "Service", "digits"),))
    waits = decide_volume(resource("Volume", {"size": GIB}, deleting=NOW), observed, NOW)
    assert "still attached to Service digits" in waits.status["message"]
    assert [type(action) for action in waits.actions] == [Emit]
    status = dict(waits.status)
    again = decide_volume(resource("Volume", {"size": GIB}, deleting=NOW, status=status), observed, NOW)
    assert again.actions == ()
    assert again.wake_in is not None


@pytest.mark.parametrize("path", ["relative", "/", "/etc/x", "/a/../b", "/a//b", "/root", "/mnt/\n"])
def test_paths_of_volumes_are_plain_and_not_the_systems(path: str) -> None:
    with pytest.raises(Invalid):
        VolumeSpec.parse({"path": path})
