"""``python -m modelworks.main run-local``: a training job's manifest on this machine, without a platform."""

from __future__ import annotations

from pathlib import Path

import yaml

from modelworks.kernel.errors import Invalid
from modelworks.products.training.local import run as run_job


def run(path: Path, directory: Path) -> int:
    """Run the manifest at ``path`` (YAML or JSON) below ``directory``; the command's own exit code.

    Raises Invalid when the manifest cannot be read or is wrong.
    """
    try:
        manifest = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"{path} cannot be read: {error}", remedy="correct the manifest") from error
    if not isinstance(manifest, dict):
        raise Invalid(f"{path} is no manifest: it holds no fields", remedy="write `kind: TrainingJob` and its spec")
    return run_job(manifest, directory)
