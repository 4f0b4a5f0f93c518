"""The session: which platform and workspace the SDK's objects talk to. Every object finds the default one by itself."""

from __future__ import annotations

import threading
import warnings
from functools import cached_property
from typing import Any

from modelworks.sdk import context
from modelworks.sdk.client import Client

_default: Session | None = None
_lock = threading.Lock()


class Session:
    """A workspace of a platform.

    The names of the cloud's SDK are accepted: ``workspace_id`` names the workspace, ``oss_bucket_name`` the bucket for
    outputs (the workspace's own when None); ``region_id``, ``credential_config`` and ``oss_endpoint`` have no meaning
    here. ``endpoint`` and ``api_key`` name another platform than the one of this machine or of ``mw login``.
    """

    def __init__(
        self,
        region_id: str | None = None,
        workspace_id: str | None = None,
        credential_config: Any = None,
        oss_bucket_name: str | None = None,
        oss_endpoint: str | None = None,
        *,
        endpoint: str | None = None,
        api_key: str | None = None,
        **unknown: Any,
    ) -> None:
        warn_unknown("Session", unknown)
        self.region_id = region_id
        self.workspace = str(workspace_id) if workspace_id else "default"
        self.oss_bucket_name = oss_bucket_name
        self._endpoint, self._api_key = endpoint, api_key

    @classmethod
    def of(cls, client: Client) -> Session:
        """The session of a client that is there already."""
        session = cls(workspace_id=client.workspace)
        session.__dict__["client"] = client  # what the cached property would hold
        return session

    @property
    def workspace_id(self) -> str:
        return self.workspace

    @cached_property
    def client(self) -> Client:
        """The HTTP client; looked for when first used, so that a script may be read without a platform."""
        return context.connect(self._endpoint, self._api_key, self.workspace)


def setup_default_session(
    access_key_id: str | None = None,
    access_key_secret: str | None = None,
    security_token: str | None = None,
    region_id: str | None = None,
    credential_config: Any = None,
    oss_bucket_name: str | None = None,
    oss_endpoint: str | None = None,
    workspace_id: str | None = None,
    network: Any = None,
    *,
    endpoint: str | None = None,
    api_key: str | None = None,
    **unknown: Any,
) -> Session:
    """Make the session that every object uses from now on. The cloud's access keys are accepted and not used."""
    global _default
    session = Session(
        region_id, workspace_id, credential_config, oss_bucket_name, oss_endpoint, endpoint=endpoint, api_key=api_key
    )
    warn_unknown("setup_default_session", unknown)
    with _lock:
        _default = session
    return session


def get_default_session() -> Session:
    """The default session, made out of the environment when nobody set one up."""
    global _default
    with _lock:
        if _default is None:
            _default = Session()
        return _default


def warn_unknown(where: str, arguments: dict[str, Any]) -> None:
    """Warn of arguments that have no meaning, at the line of who called ``where``."""
    if arguments:
        warnings.warn(f"{where}: no such arguments: {', '.join(sorted(arguments))}; ignored", UserWarning, stacklevel=3)


def warn_unused(where: str, arguments: dict[str, Any]) -> None:
    """Warn of known arguments that were given a value and have no effect here."""
    given = sorted(name for name, value in arguments.items() if value is not None)
    if given:
        warnings.warn(f"{where}: without effect here: {', '.join(given)}", UserWarning, stacklevel=3)
