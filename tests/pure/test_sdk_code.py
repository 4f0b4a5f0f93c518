"""Packing a source folder: the same content gives the same archive, and what is ignored stays out."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.sdk import code, ignore


def names(folder: Path) -> list[str]:
    return [name for name, _ in code.files_of(folder)]


def test_times_and_owners_do_not_matter(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
        (folder / "b.py").write_text("b")
        (folder / "a.py").write_text("a")
    os.utime(two / "a.py", (1, 1))
    assert code.pack(one, tmp_path / "1.tar.gz").digest == code.pack(two, tmp_path / "2.tar.gz").digest


def test_content_and_the_executable_bit_matter(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    folder.mkdir()
    script = folder / "run.sh"
    script.write_text("x")
    first = code.pack(folder, tmp_path / "1.tar.gz").digest
    script.chmod(0o755)
    second = code.pack(folder, tmp_path / "2.tar.gz").digest
    script.write_text("y")
    third = code.pack(folder, tmp_path / "3.tar.gz").digest
    assert len({first, second, third}) == 3


def test_the_archive_holds_sorted_plain_files(tmp_path: Path) -> None:
    folder = tmp_path / "code"
    (folder / "pkg").mkdir(parents=True)
    (folder / "train.py").write_text("t")
    (folder / "pkg" / "m.py").write_text("m")
    packed = code.pack(folder, tmp_path / "code.tar.gz")
    with tarfile.open(packed.path) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == ["pkg/m.py", "train.py"]
    assert {(m.mtime, m.uid, m.gid, m.uname) for m in members} == {(0, 0, 0, "")}
    assert packed.files == 2


def test_what_is_never_code_stays_out(tmp_path: Path) -> None:
    for name in (".git/config", ".venv/bin/python", "__pycache__/a.pyc", "pkg/__pycache__/b.pyc", "a.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert names(tmp_path) == ["a.py"]


def test_ignore_files_of_subfolders_count_below_them(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / ".gitignore").write_text("*.csv\n!keep.csv\n")
    (tmp_path / "data" / ".mwignore").write_text("/big.bin\n")
    for name in ("a.csv", "keep.csv", "big.bin", "data/big.bin", "data/small.bin", "data/b.csv"):
        (tmp_path / name).write_text("x")
    found = [name for name in names(tmp_path) if not name.endswith("ignore")]
    assert found == ["big.bin", "data/small.bin", "keep.csv"]


@pytest.mark.parametrize(
    ("rule", "path", "is_directory", "out"),
    [
        ("*.log", "a/b.log", False, True),
        ("*.log", "a/b.txt", False, False),
        ("/build", "build", True, True),
        ("/build", "src/build", True, False),
        ("build/", "build", False, False),
        ("build/", "src/build", True, True),
        ("a/*/c", "a/b/c", False, True),
        ("a/*/c", "a/b/x/c", False, False),
        ("a/**/c", "a/c", False, True),
        ("a/**/c", "a/b/x/c", False, True),
        ("**/tmp", "x/y/tmp", True, True),
        ("file?.py", "file1.py", False, True),
        ("[ab].py", "a.py", False, True),
        ("[!ab].py", "a.py", False, False),
        ("\\#odd", "#odd", False, True),
        ("# comment", "# comment", False, False),
        ("trailing   ", "trailing", False, True),
    ],
)
def test_rules_as_git_reads_them(rule: str, path: str, is_directory: bool, out: bool) -> None:
    assert ignore.ignored(path, is_directory, ignore.parse([rule])) is out


def test_the_last_rule_counts() -> None:
    rules = ignore.parse(["*.py", "!train.py", "train.py"])
    assert ignore.ignored("train.py", False, rules)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="no folder"):
        code.pack(tmp_path / "nope", tmp_path / "x")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Invalid, match="no files"):
        code.pack(tmp_path / "empty", tmp_path / "x")


def test_too_much_code_is_refused_with_the_largest_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LIMIT", 10)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "weights.bin").write_bytes(b"x" * 20)
    with pytest.raises(Invalid, match=r"weights\.bin") as caught:
        code.pack(tmp_path / "code", tmp_path / "x")
    assert ".mwignore" in (caught.value.remedy or "")
