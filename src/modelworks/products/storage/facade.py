"""What other products and the controller use of storage."""

from __future__ import annotations

from modelworks.products.kind import Kind
from modelworks.products.storage.access import check_reach, check_writable, parse_uri
from modelworks.products.storage.decide import decide_bucket, decide_volume
from modelworks.products.storage.observe import observe_bucket, observe_volume
from modelworks.products.storage.resolve import resolve_bucket, resolve_volume
from modelworks.products.storage.spec import BucketSpec, VolumeSpec
from modelworks.products.storage.usage import MEASURE_EVERY_S, measure
from modelworks.products.storage.volumes import check_delete_volume, volume_sources

BUCKET = Kind(
    name="Bucket",
    plural="buckets",
    spec=BucketSpec,
    short=("bkt",),
    resolve=resolve_bucket,
    observe=observe_bucket,
    decide=decide_bucket,
    example={"apiVersion": "modelworks/v1", "kind": "Bucket", "metadata": {"name": "digits"}, "spec": {}},
)

VOLUME = Kind(
    name="Volume",
    plural="volumes",
    spec=VolumeSpec,
    short=("vol",),
    resolve=resolve_volume,
    observe=observe_volume,
    decide=decide_volume,
    immutable=("spec.path",),
    check_delete=check_delete_volume,
    example={
        "apiVersion": "modelworks/v1",
        "kind": "Volume",
        "metadata": {"name": "scratch"},
        "spec": {"size": "10Gi", "shared": False},
    },
)

__all__ = [
    "BUCKET",
    "MEASURE_EVERY_S",
    "VOLUME",
    "check_reach",
    "check_writable",
    "measure",
    "parse_uri",
    "volume_sources",
]
