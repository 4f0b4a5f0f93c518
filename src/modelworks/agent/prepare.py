"""What a run needs before it starts: its interpreter, its inputs, its keys, its directories."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from modelworks.agent import checkpoints
from modelworks.agent.access import RunAccess
from modelworks.agent.cache import NoRoom
from modelworks.agent.devices import shortage
from modelworks.agent.environments import summary
from modelworks.agent.lent import note_lent
from modelworks.agent.tools import Tools
from modelworks.kernel.errors import EnvironmentFailed, Forbidden, Invalid, ModelworksError, NotFound
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.run import Input, Output, RunReason, RunSpec
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime import container_launch, launch
from modelworks.runtime.launch import Prepared
from modelworks.runtime.rundir import RunDirectory
from modelworks.tracking import tokens


class Ended(Exception):
    """The run ends before it starts."""

    def __init__(self, reason: RunReason, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.detail = detail


class Preparation:
    """Steps that may each be repeated. ``say`` tells people what is being done, from any thread.

    Raises :class:`Ended` when it can never succeed, and Unavailable when it is worth another try.
    """

    def __init__(self, directory: RunDirectory, spec: RunSpec, tools: Tools, say: Callable[[str], None]) -> None:
        self.directory = directory
        self.spec = spec
        self.tools = tools
        self.say = say

    async def interpreter(self) -> Path:
        """The Python of the run's environment, built if need be."""
        environments, ref = self.tools.environments, self.spec.environment
        ready = environments.python(ref)
        if ready is not None:
            return ready
        try:
            return await self.tools.work(environments.ensure, ref, self.say)
        except EnvironmentFailed as error:
            said = summary(error.detail)
            message = said if self.spec.image else f"the environment cannot be built: {said}"
            if error.remedy:
                message += f"; {error.remedy}"
            raise Ended(RunReason.ENVIRONMENT_FAILED, message, error.detail) from error

    async def fetch(self, item: Input) -> Path:
        """The directory of an input in the cache, held for the run."""
        shown = -1

        def progress(done: int, total: int) -> None:
            nonlocal shown
            percent = 100 * done // total if total else 100
            if percent // 5 != shown:
                shown = percent // 5
                self.say(f"downloading {item.channel} {percent} %")

        try:
            key, path = await self.tools.work(self.tools.cache.fetch, item, self.spec.key, progress, self.spec.disk)
        except NoRoom as error:
            needed, free = format_bytes(error.needed), format_bytes(error.free)
            beside = f" beside the {format_bytes(self.spec.disk)} of preflight.disk" if self.spec.disk else ""
            message = f"input {item.channel} ({item.uri}) is {needed}, and node {self.tools.node_name} has {free} free"
            raise Ended(RunReason.PREFLIGHT_FAILED, message + beside) from error
        except (NotFound, Forbidden, Invalid, ValueError) as error:
            detail = error.detail if isinstance(error, ModelworksError) else str(error)
            message = f"input {item.channel}: {detail}" + ("" if item.uri in detail else f" ({item.uri})")
            raise Ended(RunReason.INPUT_MISSING, message) from error
        state = self.directory.read("state.json") or {}
        held = sorted({*state.get("inputs", []), key})
        await self.tools.call(self.directory.write, "state.json", {**state, "inputs": held})
        return path

    async def restore(self, output: Output) -> None:
        """Put what earlier attempts left into an output. May be repeated: what is there is fetched again."""
        self.say(f"restoring {output.name}")
        directory, client = self.directory.output(output.name), self.tools.client
        try:
            earlier, lent = ([ObjectUri.parse(uri) for uri in uris] for uris in (output.restore, output.lent))
            names = await self.tools.work(checkpoints.restore, client, earlier, directory, lent)
            await self.tools.call(note_lent, self.directory, output.name, names)
        except (NotFound, Forbidden, Invalid) as error:
            raise Ended(RunReason.INPUT_MISSING, f"restoring {output.name}: {error.detail}") from error

    async def variables(self) -> dict[str, str]:
        """The platform's address, and store keys for a run that asks for them."""
        found = await self.tools.call(self._address)
        if not self.spec.access.expose:
            return found
        try:
            return found | await RunAccess(self.directory, self.spec, self.tools).grant()
        except (Forbidden, Invalid) as error:
            raise Ended(RunReason.START_FAILED, f"no store keys for this run: {error.detail}") from error

    def _address(self) -> dict[str, str]:
        """``MW_API`` and where it is tracked, for what is not a replica: those have a network of their own.

        An agent alone knows neither.
        """
        try:
            url = json.loads(self.tools.home.client.read_text()).get("url")
        except FileNotFoundError:
            url = None
        if not url or self.spec.listen is not None:
            return {}
        tracked = tokens.VARIABLE in self.spec.env and tokens.ADDRESS not in self.spec.env
        return {"MW_API": str(url), **({tokens.ADDRESS: f"{url}{tokens.PATH}"} if tracked else {})}

    def write_launch(self, prepared: Prepared) -> None:
        """Directories, limits, and at last ``launch.json``."""
        spec, tools = self.spec, self.tools
        if said := shortage(spec.resources.gpu, prepared.gpus, tools.gpus, tools.node_name):
            raise Ended(RunReason.PREFLIGHT_FAILED, said)
        launch.make_directories(spec, self.directory, tools.home, prepared)
        tools.relay.admit(spec)
        cgroups = tools.runtime.cgroups.create(spec.key, spec.resources.memory, spec.resources.cpu)
        try:
            if spec.image:
                container_launch.write_launch(spec, self.directory, tools.home, prepared, cgroups)
            else:
                launch.write_launch(spec, self.directory, tools.home, tools.isolation, prepared, cgroups)
        except Invalid as error:
            raise Ended(RunReason.START_FAILED, f"{error.detail}; {error.remedy}") from error
