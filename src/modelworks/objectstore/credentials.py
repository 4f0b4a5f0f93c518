"""What opens an object store: its address, and keys that may be short-lived."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from pydantic import Field

from modelworks.kernel.spec import Spec


class Credentials(Spec):
    """``endpoint`` is a URL; ``expires_at`` (Unix seconds) is None for keys that do not end by themselves."""

    endpoint: str
    region: str = "us-east-1"
    access_key_id: str
    secret_access_key: str = Field(repr=False)
    session_token: str | None = Field(default=None, repr=False)
    expires_at: float | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """From a file of ``secrets/``. Raises OSError when it cannot be read and Invalid when it is not credentials."""
        return cls.parse(json.loads(path.read_text()), at=path.name)

    def variables(self) -> dict[str, str]:
        """As the AWS tools and libraries read them from the environment."""
        found = {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
        }
        if self.session_token is not None:
            found["AWS_SESSION_TOKEN"] = self.session_token
        return found
