"""A volume's directory is made and removed, by passes that may be repeated or overtake each other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from modelworks.control.act import _make_directory, _remove_directory


def test_a_directory_is_open_to_workloads_also_when_its_maker_was_killed(tmp_path: Path) -> None:
    half_made = tmp_path / "volumes" / "v"
    half_made.mkdir(mode=0o755, parents=True)
    for _ in range(2):
        _make_directory(half_made)
        assert half_made.stat().st_mode & 0o777 == 0o777


def test_two_may_remove_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = tmp_path / "v"
    for name in ("a", "b"):
        (volume / name).mkdir(parents=True)
    (volume / "a" / "file").write_text("x")
    remove = shutil.rmtree
    other: list[Path] = []

    def overtaken(path: Path, **options: Any) -> None:
        if not other:
            other.append(path)
            monkeypatch.setattr(shutil, "rmtree", remove)
            real = os.unlink

            def unlink(*arguments: Any, **named: Any) -> None:
                monkeypatch.setattr(os, "unlink", real)
                remove(volume)
                real(*arguments, **named)

            monkeypatch.setattr(os, "unlink", unlink)
        remove(path, **options)

    monkeypatch.setattr(shutil, "rmtree", overtaken)
    assert _remove_directory(volume, tmp_path) == []
    assert not volume.exists()
    assert _remove_directory(volume, tmp_path) == []


def test_what_the_user_brought_stays(tmp_path: Path) -> None:
    brought, volumes = tmp_path / "data", tmp_path / "volumes"
    brought.mkdir()
    volumes.mkdir()
    (volumes / "link").symlink_to(brought)
    for path in (brought, volumes, volumes / "link", volumes / ".." / "data"):
        assert [told.reason for told in _remove_directory(path, volumes)] == ["DirectoryKept"]
    assert brought.is_dir()
