"""The sandbox in which an environment's packages are built: their build scripts are code of anybody."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from modelworks.runtime import sandbox
from modelworks.runtime.launch import own_tree
from modelworks.runtime.rundir import write_file
from modelworks.runtime.sandbox import Isolation, Mount, base_python

BUILDER_UID = 599_999
"""Whom builds run as when the platform is root; runs have other numbers, see ``sandbox.run_uid``."""
_SETTINGS = "/opt/modelworks/settings"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PASSED = ("PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_")


def confined(isolation: Isolation, folder: Path, scratch: Path, command: list[str]) -> list[str]:
    """``command`` in a sandbox where only ``folder`` can be written; ``scratch`` holds what it needs meanwhile."""
    uid = None if os.geteuid() else BUILDER_UID
    tmp = scratch / "tmp"
    tmp.mkdir(parents=True)
    settings = [
        Mount(Path.home() / ".config" / name, f"{_SETTINGS}/{name}")
        for name in ("pip", "uv")
        if (Path.home() / ".config" / name).is_dir()
    ]
    system = [Mount(Path(path), path) for path in ("/etc/pip.conf", "/etc/uv") if os.path.exists(path)]
    files = [Path(part) for part in command if part.startswith("/") and os.path.isfile(part)]
    own = [Mount(path, str(path)) for path in files if not path.is_relative_to(folder)]
    env = {name: value for name, value in os.environ.items() if name.startswith(_PASSED)}
    env |= {"PATH": _PATH, "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "XDG_CONFIG_HOME": _SETTINGS}
    entry = {"command": command, "env": env, "cwd": "/tmp", "uid": uid, "gid": uid, "portal": None}
    write_file(scratch / "entry.json", json.dumps(entry).encode())
    if uid is not None:
        own_tree(folder, uid)
        os.chown(scratch / "entry.json", 0, 0)
    python = base_python()
    mounts = [
        *sandbox.interpreter_mounts(python),
        *sandbox.interpreter_mounts(Path(sys.executable)),
        *sandbox.interpreter_mounts(folder / "bin" / "python"),
        *settings,
        *system,
        *own,
        Mount(folder, str(folder), writable=True),
        Mount(tmp, "/tmp", writable=True),
        Mount(scratch / "entry.json", f"{sandbox.RUN_MOUNT}/entry.json"),
        Mount(sandbox.PACKAGE, f"{sandbox.PACKAGE_MOUNT}/{sandbox.PACKAGE.name}"),
    ]
    return sandbox.bwrap_argv(
        str(isolation.bwrap),
        [mount for mount in {mount.target: mount for mount in mounts}.values() if not sandbox.in_system(mount.target)],
        sandbox.entry_argv(python, f"{sandbox.PACKAGE_MOUNT}/{sandbox.PACKAGE.name}", sandbox.RUN_MOUNT),
        uid=uid,
        hostname="build",
    )
