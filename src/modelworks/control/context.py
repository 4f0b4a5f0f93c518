"""What the parts of one controller share: built once by ``control/process``, read by API, reconcilers and scheduler."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine

from modelworks.db.listen import Listener
from modelworks.db.secrets import Cipher
from modelworks.home import Home
from modelworks.kernel.traffic import Traffic
from modelworks.objectstore.credentials import Credentials
from modelworks.products.kind import Kind
from modelworks.runtime.base import Runtime
from modelworks.settings import Settings


@dataclass(frozen=True)
class Context:
    """``runtimes`` is by node name and grows when a node first answers; a node that is missing cannot be asked now.

    ``credentials`` returns the controller's own at the object store, and raises Unavailable before they are made.
    ``listener`` wakes those who wait for a NOTIFY; without one (in tests) they poll. ``traffic`` is what the gateways
    say of a service (by uid); without it nothing is known. ``holders`` are the runtimes that may have a run (by key).
    """

    engine: Engine
    home: Home
    settings: Settings
    kinds: Mapping[str, Kind]
    runtimes: Mapping[str, Runtime]
    cipher: Cipher
    credentials: Callable[[], Credentials]
    listener: Listener | None = None
    traffic: Callable[[str], Traffic] = lambda _: Traffic()
    holders: Callable[[str], Sequence[Runtime]] = lambda _: ()
