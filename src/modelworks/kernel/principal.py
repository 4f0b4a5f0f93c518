"""Who asks: an API key as the rules see it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Principal:
    """The API key that asks. ``workspace`` None: every workspace."""

    name: str
    workspace: str | None = None
    read_only: bool = False

    @property
    def administrator(self) -> bool:
        """The whole platform is its own: what reaches beyond a workspace is for such keys only."""
        return self.workspace is None and not self.read_only

    def may_use(self, workspace: str) -> bool:
        return self.workspace is None or self.workspace == workspace


PLATFORM = Principal("platform")
"""The platform itself, where no key asks."""
