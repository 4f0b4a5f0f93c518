"""Environments: built once, shared, and explained when they cannot be."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.agents import poll, python, run_spec, wait_ended

from modelworks.agent.confine import BUILDER_UID
from modelworks.agent.environments import Environments
from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.errors import EnvironmentFailed
from modelworks.kernel.run import EnvironmentRef, RunReason
from modelworks.runtime import container
from modelworks.runtime.sandbox import probe


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The URL of a server of this test's files: a build sees no file of the node."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def package(tmp_path: Path, served: str) -> str:
    """A package that needs nothing from an index."""
    root = tmp_path / "tiny"
    root.mkdir()
    (root / "tiny_package").mkdir()
    (root / "tiny_package" / "__init__.py").write_text("VALUE = 42\n")
    info = root / "tiny_package-1.0.dist-info"
    info.mkdir()
    files = {
        "METADATA": "Metadata-Version: 2.1\nName: tiny-package\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    for name, text in files.items():
        (info / name).write_text(text)
    names = ["tiny_package/__init__.py", *(f"{info.name}/{name}" for name in (*files, "RECORD"))]
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in names))
    wheel = tmp_path / "tiny_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in names:
            archive.write(root / name, name)
    return f"{served}/{wheel.name}"


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_a_run_uses_its_packages(home: Home, package: str, installer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if installer == "pip":
        monkeypatch.setenv("MW_UV", "off")
    with InProcessAgent(home) as agent:
        ref = EnvironmentRef(digest="abc123", name="tiny", requirements=(package,))
        program = "import tiny_package, modelworks.kernel, sys; print(tiny_package.VALUE, sys.prefix)"
        run = python(0, program, environment=ref)
        agent.ensure(run)
        seen = wait_ended(agent, run.key)
        assert seen.reason is RunReason.COMPLETED, seen
        assert agent.log(run.key).decode().split() == ["42", str(home.agent / "environments" / "abc123")]


def test_it_is_built_once(tmp_path: Path, package: str) -> None:
    environments, built = Environments(tmp_path / "environments", probe()), []
    ref = EnvironmentRef(digest="abc123", requirements=(package,))

    def ensure() -> None:
        environments.ensure(ref, lambda text: built.append(text) if text.startswith("building") else None)

    threads = [threading.Thread(target=ensure) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert environments.python(ref) == tmp_path / "environments" / "abc123" / "bin" / "python"


def test_its_modules_are_compiled_for_all_who_read_it(tmp_path: Path, package: str) -> None:
    """A run sees its environment read-only: what it compiled itself would be lost."""
    environments = Environments(tmp_path / "environments", probe())
    environments.ensure(EnvironmentRef(digest="abc123", requirements=(package,)), lambda text: None)
    folder = tmp_path / "environments" / "abc123"
    poll((folder / ".compiled").exists)
    (compiled,) = folder.glob("lib/python*/site-packages/tiny_package/__pycache__/__init__.*.pyc")
    assert compiled.stat().st_mode & 0o044 == 0o044
    assert compiled.parent.stat().st_mode & 0o055 == 0o055


def test_half_built_is_built_again(tmp_path: Path, package: str) -> None:
    half = tmp_path / "environments" / "abc123" / "bin"
    half.mkdir(parents=True)
    environments = Environments(tmp_path / "environments", probe())
    interpreter = environments.ensure(EnvironmentRef(digest="abc123", requirements=(package,)), lambda text: None)
    assert interpreter.exists()


def test_the_resolvers_own_words(home: Home, tmp_path: Path) -> None:
    with InProcessAgent(home) as agent:
        missing = f"{tmp_path}/no_such_package-1.0-py3-none-any.whl"
        run = run_spec(0, "true", environment=EnvironmentRef(digest="bad", requirements=(missing,)))
        agent.ensure(run)
        seen = wait_ended(agent, run.key)
        assert seen.reason is RunReason.ENVIRONMENT_FAILED
        assert "no_such_package" in seen.message + agent.log(run.key).decode()
        assert seen.exit_code is None


def test_images_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "find_engine", lambda: None)
    with pytest.raises(EnvironmentFailed, match="images need podman or docker") as raised:
        Environments(tmp_path, probe()).ensure(EnvironmentRef(digest="img", image="pytorch:2"), lambda text: None)
    assert raised.value.remedy is not None
    assert "substitution" in raised.value.remedy


HOSTILE_BACKEND = """
import os, zipfile
def reached(path):
    try:
        return bool(open(path).read())
    except OSError:
        return False
def build_wheel(folder, settings=None, metadata=None):
    said = {"uid": os.getuid(), "secret": reached(%r), "home": os.listdir(%r)}
    info = "hostile-1.0.dist-info"
    with zipfile.ZipFile(f"{folder}/hostile-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("hostile.py", f"SAID = {said!r}")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: hostile\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", f"hostile.py,,\\n{info}/METADATA,,\\n{info}/WHEEL,,\\n{info}/RECORD,,\\n")
    return "hostile-1.0-py3-none-any.whl"
"""
HOSTILE_PROJECT = """
[project]
name = "hostile"
version = "1.0"
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_what_a_package_runs_when_it_is_built_sees_nothing_of_the_node(
    home: Home, tmp_path: Path, served: str, installer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not probe().enabled:
        pytest.skip(probe().note)
    if installer == "pip":
        monkeypatch.setenv("MW_UV", "off")
    home.secrets.mkdir(parents=True)
    (home.secrets / "master.key").write_text("secret")
    (home.agent / "environments" / "another").mkdir(parents=True)
    backend = HOSTILE_BACKEND % (str(home.secrets / "master.key"), str(home.agent / "environments"))
    with tarfile.open(tmp_path / "hostile-1.0.tar.gz", "w:gz") as tar:
        for name, text in (("backend.py", backend), ("pyproject.toml", HOSTILE_PROJECT)):
            entry = tarfile.TarInfo(f"hostile-1.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    environments = Environments(home.agent / "environments", probe())
    ref = EnvironmentRef(digest="hostile", requirements=(f"hostile @ {served}/hostile-1.0.tar.gz",))
    interpreter = environments.ensure(ref, lambda text: None)
    said = subprocess.run([interpreter, "-c", "import hostile; print(hostile.SAID)"], capture_output=True, check=True)
    seen = {"uid": os.getuid() or BUILDER_UID, "secret": False, "home": ["hostile"]}
    assert ast.literal_eval(said.stdout.decode()) == seen
    assert not (interpreter.parents[1] / ".build").exists()
