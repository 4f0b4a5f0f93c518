"""The names in a job's spec made facts, at apply."""

from __future__ import annotations

from modelworks.kernel.resource import Metadata
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.resolution import Resolution
from modelworks.products.training.spec import TrainingJobSpec

_USES_HYPERPARAMETERS = ("hyperparameters.json", "PAI_USER_ARGS", "PAI_HPS", "modelworks.train", "hyperparameters()")


def resolve(metadata: Metadata, spec: TrainingJobSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid with the path of what is not known or not a URI."""
    resolution = Resolution("TrainingJob", metadata, lookup)
    resolution.workload(spec)
    if spec.inputs:
        resolution.data["inputs"] = {
            channel: _input(resolution, channel, uri) for channel, uri in sorted(spec.inputs.items())
        }
    if spec.output is not None:
        resolution.data["output"] = resolution.uri(spec.output, "spec.output", folder=True, write=True)
    text = spec.command if isinstance(spec.command, str) else " ".join(spec.command)
    if spec.hyperparameters and spec.code is None and not any(name in text for name in _USES_HYPERPARAMETERS):
        resolution.notes.append(
            "hyperparameters are not appended to the command: it can use $PAI_USER_ARGS or "
            "/ml/input/config/hyperparameters.json"
        )
    return resolution.resolved()


def _input(resolution: Resolution, channel: str, wanted: str) -> str:
    """A channel's URI; a base model to go on from may be one that the user replaces by his own."""
    substitution = resolution.lookup.settings.substitute("model", wanted)
    resolution.substituted(substitution)
    return resolution.uri(substitution.used if substitution else wanted, f"spec.inputs.{channel}")
