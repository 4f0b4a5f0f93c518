"""What jobs have of their checkpoints in the object store, from which their next attempt begins."""

from __future__ import annotations

import json
import re

from tests.cli_platform import Mw

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk.client import Client

_PATIENCE = 60.0  # seconds


def kept(mw: Mw, bucket: str, name: str, attempt: int, replicas: int) -> int:
    """The highest step that this attempt of a job with ``checkpoint: {uri: s3://<bucket>/}`` has there, whole and of
    each of the first ``replicas``; 0 when there is none."""
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"], patience=_PATIENCE)
    try:
        uid = client.get("TrainingJob", name)["metadata"]["uid"]
        objects = ObjectClient(Credentials.parse(client.storage_credentials(read=[f"s3://{bucket}/"])))
        keys = [item.key for item in objects.list(ObjectUri(bucket, f"{name}/{uid}/"))]
    finally:
        client.close()
    whole: dict[int, set[int]] = {}
    for key in keys:
        found = re.fullmatch(rf".*/a{attempt}(?:\.rank(\d+))?/(?:rank-\d+/)?step-(\d+)/manifest\.json", key)
        if found:
            whole.setdefault(int(found[2]), set()).add(int(found[1] or 0))
    return max((step for step, ranks in whole.items() if ranks >= set(range(replicas))), default=0)
