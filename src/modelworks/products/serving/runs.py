"""What a replica runs: the service's spec and facts made a RunSpec. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.decision import Claim
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import Access, EnvironmentRef, Input, Listen, Resources, RunKey, RunSpec, Transport
from modelworks.products.mounts import code_input, log_uri, volume_mounts
from modelworks.products.serving.revisions import revision
from modelworks.products.serving.spec import (
    BASE_MODEL_PATH,
    MODEL_PATH,
    MODEL_PATHS,
    WARM_UP_PATH,
    Processor,
    ServiceSpec,
)
from modelworks.products.serving.templates import health_path, merging, template_command
from modelworks.products.workload import arguments, expand, expand_variables

# Templates whose server tells its metrics at the port that it serves at.
_WITH_METRICS = frozenset((Processor.VLLM, Processor.LLAMACPP))
_BATCH_SIZE = "MW_MAX_BATCH_SIZE"


@dataclass(frozen=True)
class Service:
    """A service as the decision sees it: the spec, what apply made of its names, and the revision of both.

    ``wanted`` is how many replicas of this revision should run.
    """

    uid: str
    workspace: str
    name: str
    spec: ServiceSpec
    resolved: Mapping[str, Any]
    revision: str
    wanted: int = 0

    @classmethod
    def of(cls, resource: Resource) -> Service:
        spec = ServiceSpec.parse(resource.spec, at="spec")
        found = revision(spec, resource.resolved)
        return cls(resource.uid, resource.ref.workspace, resource.ref.name, spec, resource.resolved, found)

    def key(self, ordinal: int, incarnation: int) -> str:
        return str(RunKey(self.uid, self.revision, ordinal, incarnation))

    def claim(self, key: str) -> Claim:
        """Each replica is placed on its own: some may serve while others wait."""
        return Claim(
            key=key,
            gang=key,
            resources=self.resources,
            instance_type=str(self.resolved.get("instance_type", "custom")),
            price_per_hour=float(self.resolved.get("price_per_hour", 0.0)),
            node_selector=self.spec.node_selector,
            tolerations=self.spec.tolerations,
            lasting=True,
        )

    @property
    def resources(self) -> Resources:
        return Resources.parse(self.resolved.get("resources", {}))


def run_spec(service: Service, key: str, halvings: int = 0) -> RunSpec:
    """The run of one replica; its batches are halved so many times, since it ran out of memory before."""
    spec, resolved = service.spec, service.resolved
    inputs = _inputs(resolved)
    platform = {"MW_SERVICE": service.name, "MW_REVISION": service.revision}
    model = {"MW_MODEL_DIR": MODEL_PATH} if resolved.get("model") else {}
    based = bool(resolved.get("base_model"))
    environment = EnvironmentRef.parse(resolved["environment"]) if resolved.get("environment") else None
    contained = environment is not None and environment.image is not None
    template = (
        template_command(spec, service.name, service.resources, contained=contained, based=based)
        if spec.processor.template
        else None
    )
    own = (dict(template.env) if template else {}) | expand_variables(spec.env, platform | model)
    platform |= _batching(spec)
    command = template.command if template else _command(spec, platform | model | own, based)
    args = _arguments(spec, platform | model | own)
    shipped = log_uri(service.workspace, key)
    return RunSpec(
        key=key,
        workspace=service.workspace,
        kind="Service",
        name=service.name,
        command=command if contained else command + args,
        args=args if contained else (),
        environment=environment,
        env=platform | own | _halved(spec, platform | own, halvings),
        resources=service.resources,
        inputs=inputs,
        volumes=volume_mounts(spec.volumes, resolved),
        listen=_listen(spec, health_path(spec, service.name)),
        access=Access(read=tuple(item.uri for item in inputs), write=(shipped,), expose=spec.credentials),
        log_uri=shipped,
        grace=spec.grace_period,
    )


def _command(spec: ServiceSpec, known: dict[str, str], based: bool) -> tuple[str, ...]:
    if spec.processor in (Processor.COMMAND, Processor.IMAGE):
        # On the host's network the port is the agent's to choose: only a shell sees it in time.
        port = "${PORT}" if isinstance(spec.command, str) else str(spec.port)
        own = arguments(spec.command) if spec.command is not None else ()
        return tuple(expand(part, {"PORT": port} | known) for part in own)
    command: tuple[str, ...] = ("python", "-m", "modelworks.server", "--processor", str(spec.processor))
    if spec.model is not None:
        command += ("--model", MODEL_PATH)
    if spec.entry is not None:
        command += ("--entry", spec.entry)
    if spec.processor is Processor.PYTHON:
        command += ("--threads", str(spec.places))
    if spec.warm_up is not None:
        command += ("--warm-up", WARM_UP_PATH)
    # A class of the user's finds one model: what was trained, laid into what it was trained on.
    return (*merging(spec), *command) if based else command


def _arguments(spec: ServiceSpec, known: dict[str, str]) -> tuple[str, ...]:
    """Behind the command, or the image's own. A template has put its own where they belong."""
    if spec.processor is not Processor.IMAGE:
        return ()
    return tuple(expand(part, {"PORT": str(spec.port)} | known) for part in spec.args)


def _batching(spec: ServiceSpec) -> dict[str, str]:
    if spec.batching is None:
        return {}
    delay = f"{spec.batching.max_batch_delay_ms:g}"
    return {_BATCH_SIZE: str(spec.batching.max_batch_size), "MW_MAX_BATCH_DELAY_MS": delay}


def _halved(spec: ServiceSpec, env: Mapping[str, str], halvings: int) -> dict[str, str]:
    """A smaller batch needs less memory. What is not batched, or is by a server of its own, stays as it is."""
    size = env.get(_BATCH_SIZE, "")
    if not halvings or not spec.processor.own_server or not size.isdecimal():
        return {}
    return {_BATCH_SIZE: str(max(int(size) >> halvings, 1))}


def _listen(spec: ServiceSpec, path: str) -> Listen:
    own = spec.processor.own_server
    readiness = spec.readiness
    return Listen(
        transport=Transport.UNIX if own else Transport.PORT,
        port=spec.port,
        path=path,
        period=readiness.period,
        timeout=readiness.timeout,
        startup=readiness.startup,
        failures=readiness.failures,
        any_status=readiness.status == "any",
        network=spec.network,
        metrics="/metrics" if own or spec.processor in _WITH_METRICS else None,
    )


def _inputs(resolved: Mapping[str, Any]) -> tuple[Input, ...]:
    found = []
    model = resolved.get("model")
    if model:
        found.append(
            Input(
                channel="model",
                uri=model["uri"],
                paths=MODEL_PATHS,
                digest=model.get("digest"),
                env="MW_MODEL_DIR",
            )
        )
    base = resolved.get("base_model")
    if base:
        digest = base.get("digest")
        paths = (BASE_MODEL_PATH,)
        found.append(Input(channel="base", uri=base["uri"], paths=paths, digest=digest, env="MW_BASE_MODEL_DIR"))
    if resolved.get("warm_up"):
        found.append(Input(channel="warm-up", uri=resolved["warm_up"], paths=(WARM_UP_PATH,), env="MW_WARM_UP"))
    if resolved.get("code"):
        found.append(code_input(resolved["code"]))
    mounts = enumerate(sorted(resolved.get("mounts", {}).items()))
    found += [Input(channel=f"mount{number}", uri=uri, paths=(path,)) for number, (path, uri) in mounts]
    return tuple(found)
