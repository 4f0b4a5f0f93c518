"""Quotas of workspaces in admission: what may still be placed, and why not. Pure.

What is limited is counted by name: ``cpu`` (millicores), ``memory`` (bytes), ``gpu``, and each instance type as
``instance:<name>``. A gang is weighed whole: it is within every quota with all its claims, or waits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from modelworks.kernel.decision import Claim
from modelworks.kernel.quantities import format_bytes, format_cpu

INSTANCE = "instance:"
Counts = Mapping[str, int]


@dataclass(frozen=True)
class Limit:
    """One quota: the most of each name that a workspace may hold together.

    ``spent`` says that its money is spent, and since when there is more; empty while there is some. It holds back what
    ends by itself: a service's replica is replaced all the same.
    """

    name: str
    workspace: str
    most: Counts = field(default_factory=dict)
    spent: str = ""


def counts(claims: Iterable[Claim]) -> Counter[str]:
    """What claims are for quotas."""
    cpu = memory = gpu = 0
    found: Counter[str] = Counter()
    for claim in claims:
        needs, name = claim.resources, INSTANCE + claim.instance_type
        cpu, memory, gpu = cpu + needs.cpu, memory + needs.memory, gpu + needs.gpu
        found[name] = found.get(name, 0) + 1
    found["cpu"], found["memory"], found["gpu"] = cpu, memory, gpu
    return found


class Quotas:
    """The state of one pass: what each workspace holds, and what it has promised to those who wait.

    ``used``, and of it ``leaving`` (being given back) and ``lasting`` (does not end by itself), by workspace.
    """

    def __init__(
        self,
        limits: Sequence[Limit] = (),
        used: Mapping[str, Counts] | None = None,
        leaving: Mapping[str, Counts] | None = None,
        lasting: Mapping[str, Counts] | None = None,
    ) -> None:
        self._limits: dict[str, list[Limit]] = defaultdict(list)
        for limit in sorted(limits, key=lambda limit: limit.name):
            self._limits[limit.workspace].append(limit)
        known = {workspace: Counter(found) for workspace, found in (used or {}).items()}
        self._used: dict[str, Counter[str]] = defaultdict(Counter, known)
        self._soon: dict[str, Counter[str]] = defaultdict(Counter)
        for workspace, found in self._used.items():
            self._soon[workspace] = Counter(found)
            self._soon[workspace].subtract((leaving or {}).get(workspace, {}))
        self._lasting = lasting or {}
        self._held: dict[tuple[str, str], str] = {}

    def limited(self, workspace: str) -> bool:
        return workspace in self._limits

    def never(self, workspace: str, need: Counts) -> str:
        """Why it is never placed, whatever ends; empty when it may be."""
        for limit in self._limits.get(workspace, ()):
            for name, most in limit.most.items():
                if need.get(name, 0) > most:
                    wanted, allowed = told(name, need[name]), told(name, most)
                    return f"larger than the quota {limit.name} of workspace {workspace}: needs {wanted} of {allowed}"
        return ""

    def spent(self, workspace: str, lasting: bool) -> str:
        """That there is no money left for what ends by itself."""
        if lasting:
            return ""
        return next((limit.spent for limit in self._limits.get(workspace, ()) if limit.spent), "")

    def objection(self, workspace: str, need: Counts) -> str:
        """Why it is not placed now; empty when it may be. Promises count as if they were held."""
        for limit in self._limits.get(workspace, ()):
            for name, most in limit.most.items():
                wanted = need.get(name, 0)
                if not wanted:
                    continue
                holder = self._held.get((workspace, name))
                if holder is not None:
                    return f"waits for the quota {limit.name} of workspace {workspace} behind {holder}"
                held = max(self._used[workspace][name], self._soon[workspace][name])
                if held + wanted > most:
                    return (
                        f"waits for the quota {limit.name} of workspace {workspace}: needs {told(name, wanted)}, "
                        f"{told(name, held)} of {told(name, most)} are in use"
                    )
        return ""

    def fits_soon(self, workspace: str, need: Counts, gone: Counts | None = None) -> bool:
        """Whether it may be placed when all that leaves has left, and ``gone`` too."""
        soon, less = self._soon[workspace], gone or {}
        return all(
            soon[name] - less.get(name, 0) + need[name] <= most and (workspace, name) not in self._held
            for limit in self._limits.get(workspace, ())
            for name, most in limit.most.items()
            if need.get(name, 0)
        )

    def take(self, workspace: str, need: Counts) -> None:
        self._used[workspace].update(need)
        self._soon[workspace].update(need)

    def promise(self, workspace: str, need: Counts) -> None:
        self._soon[workspace].update(need)

    def leave(self, workspace: str, less: Counts) -> None:
        self._soon[workspace].subtract(less)

    def hold(self, workspace: str, need: Counts, title: str) -> None:
        """Nobody behind takes what this one waits for, if ends would make room for it at all."""
        lasting = self._lasting.get(workspace, {})
        for limit in self._limits.get(workspace, ()):
            for name, most in limit.most.items():
                wanted = need.get(name, 0)
                if wanted and lasting.get(name, 0) + wanted > most:
                    return
        for limit in self._limits.get(workspace, ()):
            for name in limit.most:
                if need.get(name, 0):
                    self._held.setdefault((workspace, name), title)


def told(name: str, value: int) -> str:
    """``8 CPU``, ``32Gi memory``, ``2 GPU``, ``4 local.small``."""
    if name == "cpu":
        return f"{format_cpu(value)} CPU"
    if name == "memory":
        return f"{format_bytes(value)} memory"
    return f"{value} GPU" if name == "gpu" else f"{value} × {name.removeprefix(INSTANCE)}"
