"""What this machine offers. ``MW_NODE_NAME``, ``MW_NODE_CPU`` and ``MW_NODE_MEMORY`` override what was found;
``MW_NODE_ADDRESS`` is where other nodes reach it."""

from __future__ import annotations

import fcntl
import importlib
import ipaddress
import logging
import os
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.quantities import parse_bytes, parse_cpu
from modelworks.kernel.run import NodeObservation, Resources
from modelworks.runtime import container
from modelworks.runtime.launch import SYSTEM_PATH, Gpu
from modelworks.runtime.sandbox import Isolation

CONTAINER_ENGINE = "container-engine"
"""The label of what runs images: ``podman``, ``docker``, another program's name, or ``none``."""
MPI = "mpi"
"""The label of what starts MPI programs on the node itself, such as ``mpirun``, or ``none``."""
_MPI_LAUNCHERS = ("mpirun", "prterun", "orterun", "mpiexec")
RESERVE = 512 * 1024**2  # for the platform itself
_LEAST = 256 * 1024**2
_UNLIMITED = 1 << 60
_SIOCGIFADDR = 0x8915  # <linux/sockios.h>
log = logging.getLogger(__name__)


def observe_node(isolation: Isolation, gpus: tuple[Gpu, ...]) -> NodeObservation:
    """Capacity: the CPUs this process may use, memory less a reserve, GPUs by NVML."""
    cpu = os.environ.get("MW_NODE_CPU")
    memory = os.environ.get("MW_NODE_MEMORY")
    capacity = Resources(
        cpu=f"{parse_cpu(cpu) if cpu else 1000 * len(os.sched_getaffinity(0))}m",
        memory=parse_bytes(memory) if memory else max(_LEAST, total_memory() - RESERVE),
        gpu=len(gpus),
        gpu_model=gpus[0].model if gpus else None,
        gpu_memory=min(gpu.memory for gpu in gpus) if gpus else None,
    )
    name = os.environ.get("MW_NODE_NAME") or socket.gethostname()
    address = os.environ.get("MW_NODE_ADDRESS") or "127.0.0.1"
    return NodeObservation(
        name=name,
        address=address,
        interface=interface_of(address),
        capacity=capacity,
        labels={"hostname": name, CONTAINER_ENGINE: container.named() or "none", MPI: _mpi_launcher() or "none"},
        isolation=isolation.enabled,
        isolation_note=isolation.note,
    )


def _mpi_launcher() -> str | None:
    """As a workload finds it; an environment or an image may bring another one."""
    return next((name for name in _MPI_LAUNCHERS if shutil.which(name, path=SYSTEM_PATH)), None)


def interface_of(address: str) -> str:
    """The network interface that has the address; empty when none has it, as behind a translation of addresses."""
    wanted = ipaddress.ip_address(address)
    if wanted.version == 6:
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            digits, *_, name = line.split()
            if int(digits, 16) == int(wanted):
                return name
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asking, _SIOCGIFADDR, name.encode().ljust(40, b"\0"))
            except OSError:
                continue  # it has no address of that family
            if found[20:24] == wanted.packed:
                return name
    return ""


def total_memory() -> int:
    """MemTotal, or the limit of the container that we are in."""
    total = int(Path("/proc/meminfo").read_text().split("MemTotal:")[1].split()[0]) * 1024
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text().strip()
        except OSError:
            continue  # the other version, or none
        if text.isdigit() and int(text) < _UNLIMITED:
            total = min(total, int(text))
    return total


@dataclass(frozen=True)
class GpuUsage:
    """``busy`` is the share of time (0-1) in which a kernel ran, ``memory_busy`` that in which memory was read or
    written, both the mean over several GPUs; ``memory`` is what is allocated on all, in bytes. Not ``known``: one of
    them does not tell, as a part of a GPU (MIG) and one that has failed do not."""

    busy: float
    memory_busy: float
    memory: float
    known: bool = True


class GpuMonitor:
    """NVML where there is an NVIDIA driver; no GPUs otherwise."""

    def __init__(self) -> None:
        self._nvml = None
        self._silent: set[str] = set()
        self.gpus: tuple[Gpu, ...] = ()
        if not os.path.exists("/dev/nvidiactl"):
            return
        nvml = importlib.import_module("pynvml")  # large, and of use only beside a driver
        try:
            nvml.nvmlInit()
            self.gpus = tuple(self._describe(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
            self._nvml = nvml
        except nvml.NVMLError as error:
            log.warning("the NVIDIA driver does not answer: %s", error)

    @staticmethod
    def _describe(nvml: object, index: int) -> Gpu:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)  # type: ignore[attr-defined]
        name, uuid = nvml.nvmlDeviceGetName(handle), nvml.nvmlDeviceGetUUID(handle)  # type: ignore[attr-defined]
        memory = nvml.nvmlDeviceGetMemoryInfo(handle).total  # type: ignore[attr-defined]
        return Gpu(index, str(uuid), str(name), int(memory))

    def trouble(self, gpu: Gpu) -> str:
        """What keeps a GPU that was there from working, in the driver's word; nothing when it answers."""
        if self._nvml is None:
            return "there is no driver any more"
        try:
            self._nvml.nvmlDeviceGetMemoryInfo(self._nvml.nvmlDeviceGetHandleByUUID(gpu.uuid))
        except self._nvml.NVMLError as error:
            return str(error)
        return ""

    def usage(self, gpus: tuple[Gpu, ...]) -> GpuUsage:
        """What these GPUs did lately; nothing where there are none."""
        if self._nvml is None or not gpus:
            return GpuUsage(0.0, 0.0, 0.0)
        busy = memory_busy = memory = 0.0
        known = True
        for gpu in gpus:
            try:
                handle = self._nvml.nvmlDeviceGetHandleByIndex(gpu.index)
                memory += self._nvml.nvmlDeviceGetMemoryInfo(handle).used
                rates = self._nvml.nvmlDeviceGetUtilizationRates(handle)
            except self._nvml.NVMLError as error:
                known = False
                if gpu.uuid not in self._silent:
                    log.warning("GPU %d (%s) does not say what it does: %s", gpu.index, gpu.uuid, error)
                    self._silent.add(gpu.uuid)
                continue
            busy += rates.gpu / 100
            memory_busy += rates.memory / 100
        return GpuUsage(busy / len(gpus), memory_busy / len(gpus), memory, known)
