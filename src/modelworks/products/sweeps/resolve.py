"""A sweep's job is looked at as if it were applied, when the sweep is."""

from __future__ import annotations

from importlib.util import find_spec

from modelworks.kernel.decision import BOUND
from modelworks.kernel.errors import FieldError, Invalid, ModelworksError
from modelworks.kernel.resource import Metadata
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.sweeps.observe import job_name
from modelworks.products.sweeps.spec import Float, Int, SweepSpec
from modelworks.products.training.facade import TRAINING_JOB

_LONGEST_NAME = 58  # with a hyphen and four digits, the job's is one


def resolve(metadata: Metadata, spec: SweepSpec, lookup: Lookup) -> Resolved:
    """Raises Invalid with the path of what is wrong in the sweep or its job, and where Optuna is missing."""
    if find_spec("optuna") is None:
        raise Invalid(
            "sweeps need Optuna, which is missing where the controller runs",
            remedy="install modelworks[sweeps] there, and start the platform again",
            fields=(FieldError("kind", "not available on this platform"),),
        )
    if len(metadata.name) > _LONGEST_NAME:
        said = f"is too long: the jobs of its trials have a number more, and {_LONGEST_NAME} characters are left"
        raise Invalid(f"the name of the sweep {said}", fields=(FieldError("metadata.name", said),))
    first = {name: one.low if isinstance(one, Float | Int) else one.choices[0] for name, one in spec.parameters.items()}
    job = spec.job.model_copy(update={"hyperparameters": {**spec.job.hyperparameters, **first}})
    try:
        found = TRAINING_JOB.resolve(metadata.model_copy(update={"name": job_name(metadata.name, 0)}), job, lookup)
    except ModelworksError as error:
        raise _within_job(error) from error
    return Resolved({BOUND: lookup.principal.workspace is not None}, found.notes)


def _within_job(error: ModelworksError) -> ModelworksError:
    fields = tuple(
        FieldError(
            f"spec.job.{field.path.removeprefix('spec.')}" if field.path != "spec" else "spec.job", field.message
        )
        for field in error.fields
    )
    return type(error)(error.detail, remedy=error.remedy, fields=fields, retry_after=error.retry_after)
