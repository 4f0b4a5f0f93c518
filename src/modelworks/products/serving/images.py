"""A service's image made a fact, at apply, and what cannot be in one."""

from __future__ import annotations

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.run import EnvironmentRef
from modelworks.products.catalogue.facade import resolve_image
from modelworks.products.resolution import Resolution
from modelworks.products.serving.spec import Processor, ServiceSpec


def resolve(resolution: Resolution, spec: ServiceSpec) -> None:
    """The image as the environment of its replicas.

    Raises Invalid for what is no reference, for a processor that no image holds, and for an image that the settings
    replace by packages where only the image says what to run.
    """
    if spec.image is not None:
        choice = resolve_image(resolution.lookup, resolution.workspace, spec.image, "spec.image")
        resolution.substituted(choice.substitution)
        resolution.data["environment"] = choice.ref.dump()
    stored = resolution.data.get("environment")
    environment = EnvironmentRef.parse(stored) if stored else None
    if environment is None:
        return
    if environment.image is not None and spec.processor.own_server:
        said = (
            f"the processor {spec.processor} runs the platform's model server, which the image {environment.image} "
            f"does not hold: give an environment of packages, or serve by the image's own server (processor: image)"
        )
        raise Invalid(said, fields=(FieldError("spec.environment", said),))
    if spec.processor is Processor.IMAGE and environment.image is None and spec.command is None:
        said = (
            f"{spec.image} is replaced by the environment {environment.name} (substitutions.images in config.yaml), "
            f"which has no command of its own: write command, or take the substitution away"
        )
        raise Invalid(said, fields=(FieldError("spec.command", said),))
