"""The table of kinds: what can be declared. Nothing registers itself."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modelworks.products.catalogue.facade import ENVIRONMENT, INSTANCE_TYPE
from modelworks.products.kind import Kind
from modelworks.products.quotas.facade import QUOTA
from modelworks.products.registry.facade import MODEL
from modelworks.products.serving.facade import SERVICE
from modelworks.products.storage.facade import BUCKET, VOLUME
from modelworks.products.sweeps.facade import SWEEP
from modelworks.products.training.facade import TRAINING_JOB

_ALL = (TRAINING_JOB, SWEEP, SERVICE, MODEL, BUCKET, VOLUME, ENVIRONMENT, INSTANCE_TYPE, QUOTA)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})
