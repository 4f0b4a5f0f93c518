"""Pictures that commands draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Invalid


def save(figure: Any, path: Path) -> None:
    """Write a figure of matplotlib as PNG, whatever the file is called. Raises Invalid where it cannot be written."""
    try:
        figure.savefig(path, dpi=120, format="png")
    except OSError as error:
        raise Invalid(
            f"the picture cannot be written to {path}: {error.strerror}",
            remedy="name a file in a folder that is there and may be written to",
        ) from error
