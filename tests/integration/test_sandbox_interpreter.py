"""What is mounted for a Python: its installation, and nothing of what lies around a link to it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelworks.home import Home
from modelworks.kernel.errors import Invalid
from modelworks.runtime.mounts import check_hidden
from modelworks.runtime.sandbox import Mount, base_python, interpreter_mounts


def test_a_link_in_a_home_does_not_mount_the_home(tmp_path: Path) -> None:
    person = tmp_path / "person"
    (person / "bin").mkdir(parents=True)
    (person / "lib/python3.11/site-packages").mkdir(parents=True)  # as `pip install --user` leaves it
    link = person / "bin" / "python3"
    link.symlink_to(base_python())
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("")
    (venv / "bin" / "python").symlink_to(link)
    mounts = {mount.target: mount for mount in interpreter_mounts(venv / "bin" / "python")}
    assert str(person) not in mounts
    assert mounts[str(venv)] == Mount(venv, str(venv))
    assert mounts[str(link)] == Mount(base_python(), str(link), link=True)


def test_this_interpreter_is_mounted_where_it_is() -> None:
    targets = {mount.target for mount in interpreter_mounts(Path(sys.executable))}
    assert {sys.prefix, sys.base_prefix} - {"/usr"} <= targets


def test_a_home_inside_what_workloads_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="MW_HOME lies in it"):
        check_hidden([Mount(tmp_path, str(tmp_path))], Home(tmp_path / "home"))
    check_hidden([Mount(tmp_path / "python", "/python")], Home(tmp_path / "home"))
