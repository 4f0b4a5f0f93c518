"""Archives of code: what is in them lands below the target, and nothing else happens."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.runtime import archive
from modelworks.runtime.archive import unpack


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = kind, link, mode
    return entry


def pack(path: Path, *members: tarfile.TarInfo, content: bytes = b"content") -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for entry in members:
            entry.size = len(content) if entry.isreg() else 0
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_files_folders_and_inner_links(tmp_path: Path) -> None:
    packed = pack(
        tmp_path / "a.tar.gz",
        member("./train.py"),
        member("bin/run.sh", mode=0o4755),
        member("empty", tarfile.DIRTYPE),
        member("bin/latest", tarfile.SYMTYPE, "../train.py"),
    )
    unpack(packed, tmp_path / "out", "a.tar.gz")
    assert (tmp_path / "out/train.py").read_bytes() == b"content"
    assert (tmp_path / "out/bin/run.sh").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "out/empty").is_dir()
    assert (tmp_path / "out/bin/latest").read_bytes() == b"content"


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("/etc/evil")],
        [member("a/../../evil")],
        [member("link", tarfile.SYMTYPE, "/etc")],
        [member("link", tarfile.SYMTYPE, "../..")],
        [member("hard", tarfile.LNKTYPE, "/etc/passwd")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("disk", tarfile.BLKTYPE)],
    ],
    ids=["up", "absolute", "down and up", "link out", "link up", "hard link", "pipe", "device"],
)
def test_what_leads_out_is_refused(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    packed = pack(tmp_path / "a.tar.gz", *members)
    with pytest.raises(Invalid, match=r"a\.tar\.gz cannot be unpacked"):
        unpack(packed, tmp_path / "out", "a.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} == {"a.tar.gz", "out"}


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    # Each link stays inside as text; together they lead out.
    packed = pack(
        tmp_path / "a.tar.gz",
        member("d", tarfile.DIRTYPE),
        member("d/up", tarfile.SYMTYPE, ".."),
        member("d/up/up2", tarfile.SYMTYPE, ".."),
    )
    with pytest.raises(Invalid, match="below a link"):
        unpack(packed, tmp_path / "out", "a.tar.gz")
    packed = pack(tmp_path / "b.tar.gz", member("up", tarfile.SYMTYPE, "d/.."), member("up/outside/evil"))
    with pytest.raises(Invalid):
        unpack(packed, tmp_path / "out2", "b.tar.gz")
    assert list(outside.iterdir()) == []


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack(tmp_path / "a.tar.gz", *(member(f"f{n}") for n in range(20)))
    monkeypatch.setattr(archive, "MOST_MEMBERS", 10)
    with pytest.raises(Invalid, match="more than 10 files"):
        unpack(packed, tmp_path / "out", "a.tar.gz")
    monkeypatch.undo()
    entry = member("huge")
    entry.size = 1 << 50
    (tmp_path / "b.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(Invalid, match="larger than"):
        unpack(tmp_path / "b.tar", tmp_path / "out2", "b.tar")
