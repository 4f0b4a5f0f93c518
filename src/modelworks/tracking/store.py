"""MLflow's own store, as far as the platform writes to it: workspaces, and the run that is a job's.

MLflow chooses the ids of runs; a job's run has the job's uid, so that each attempt and replica finds the same one
(``MLFLOW_RUN_ID``) with nobody asked beforehand. It is made when it is first asked for.
"""

from __future__ import annotations

import logging
import time

from mlflow.entities import ExperimentTag, RunTag, Workspace
from mlflow.exceptions import MlflowException
from mlflow.server import handlers
from mlflow.server.workspace_helpers import _get_workspace_store
from mlflow.store.tracking.dbmodels.models import SqlRun, SqlTag
from mlflow.utils.uri import append_to_uri_path
from mlflow.utils.workspace_context import set_server_request_workspace
from sqlalchemy import Engine, select
from sqlalchemy.exc import IntegrityError

from modelworks.db.tables import resources as table
from modelworks.tracking.callers import JobRun
from modelworks.tracking.rules import mlflow_workspace

_UID, _JOB, _ATTEMPT = "modelworks.job_uid", "modelworks.job", "modelworks.attempt"
_STATUS = {"Succeeded": "FINISHED", "Failed": "FAILED", "Cancelled": "KILLED"}
log = logging.getLogger("modelworks.tracking.store")


def ensure_workspace(workspace: str) -> None:
    """MLflow knows it."""
    name, store = mlflow_workspace(workspace), _get_workspace_store()
    try:
        store.get_workspace(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        try:
            store.create_workspace(Workspace(name=name))
        except MlflowException as raced:
            if raced.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def ensure_run(job: JobRun, experiment_id: str | None, experiment: str | None) -> None:
    """The job's run exists, in the experiment given by id or name, else the job's; it names the attempt."""
    set_server_request_workspace(mlflow_workspace(job.workspace))
    store = handlers._get_tracking_store()
    try:
        run = store.get_run(job.uid)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = store.get_experiment(experiment_id) if experiment_id else _experiment(experiment or job.experiment)
        _insert(job, found)
        return
    if run.data.tags.get(_ATTEMPT) != str(job.attempt):
        store.set_tag(job.uid, RunTag(_ATTEMPT, str(job.attempt)))


def _experiment(name: str):  # type: ignore[no-untyped-def]
    store = handlers._get_tracking_store()
    found = store.get_experiment_by_name(name)
    if found is not None:
        return found
    try:
        return store.get_experiment(store.create_experiment(name, None, [ExperimentTag("modelworks", "true")]))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return store.get_experiment_by_name(name)


def _insert(job: JobRun, experiment) -> None:  # type: ignore[no-untyped-def]
    store = handlers._get_tracking_store()
    tags = {"mlflow.runName": job.name, _JOB: job.name, _UID: job.uid, _ATTEMPT: str(job.attempt)}
    try:
        with store.ManagedSessionMaker(read_only=False) as session:
            session.add(
                SqlRun(
                    run_uuid=job.uid,
                    name=job.name,
                    experiment_id=int(experiment.experiment_id),
                    artifact_uri=append_to_uri_path(experiment.artifact_location, job.uid, store.ARTIFACTS_FOLDER_NAME),
                    source_type="JOB",
                    source_name=job.name,
                    entry_point_name="",
                    source_version="",
                    user_id="job",
                    status="RUNNING",
                    start_time=int(time.time() * 1000),
                    lifecycle_stage="active",
                    tags=[SqlTag(key=key, value=value) for key, value in tags.items()],
                )
            )
            session.flush()
    except (IntegrityError, MlflowException):
        store.get_run(job.uid)  # another replica was first; else its error is the one to tell


def close_runs(platform: Engine) -> None:
    """Runs whose jobs have ended have ended too: a process that was killed could not say so."""
    store = handlers._get_tracking_store()
    with store.ManagedSessionMaker(read_only=False) as session:
        open_runs = (
            session.query(SqlRun)
            .join(SqlTag, (SqlTag.run_uuid == SqlRun.run_uuid) & (SqlTag.key == _UID))
            .filter(SqlRun.status == "RUNNING", SqlRun.lifecycle_stage == "active", SqlTag.value == SqlRun.run_uuid)
            .all()
        )
        if not open_runs:
            return
        asked = select(table.c.uid, table.c.status).where(table.c.uid.in_([run.run_uuid for run in open_runs]))
        with platform.connect() as connection:
            phases = {uid: status.get("phase") for uid, status in connection.execute(asked)}
        for run in open_runs:
            # A job that is no more was deleted.
            status = _STATUS.get(phases.get(run.run_uuid, "Cancelled"))
            if status is not None:
                run.status, run.end_time = status, int(time.time() * 1000)
