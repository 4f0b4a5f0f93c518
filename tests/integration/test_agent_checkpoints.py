"""Checkpoints between a run and a real object store: soon, whole, and no more of them than are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import poll, python, wait_ended, wait_log

from modelworks.agent.checkpoints import CheckpointUploader, restore
from modelworks.agent.inprocess import InProcessAgent
from modelworks.agent.outputs import OutputUploader
from modelworks.home import Home
from modelworks.kernel.errors import Conflict, NotFound
from modelworks.kernel.run import Output, RunReason, RunSpec
from modelworks.objectstore import transfer
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime.local import kill_all
from modelworks.train import layout
from modelworks.train.checkpointer import Checkpointer
from modelworks.train.layout import CONTENTS, MANIFEST


@pytest.fixture
def objects(store: Credentials) -> ObjectClient:
    return ObjectClient(store)


@pytest.fixture
def agent(home: Home, agent_store: Credentials) -> Iterator[InProcessAgent]:
    home.secrets.mkdir()
    (home.secrets / "agent.json").write_text(agent_store.model_dump_json())
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)


def _save(folder: Path, *steps: int, keep: int = 3, value: str = "") -> None:
    checkpointer = Checkpointer(folder, keep=keep)
    for step in steps:
        checkpointer.save(step, value=value or step, data=b"x" * 1000, wait=True)


def _names(objects: ObjectClient, uri: ObjectUri) -> set[str]:
    return {item.key.removeprefix(uri.key) for item in objects.list(uri)}


def _step(number: int) -> set[str]:
    return {f"step-{number}/{name}" for name in (CONTENTS, MANIFEST, "blobs.bin")}


def _run(number: int, program: str, bucket: str, attempt: int = 1) -> RunSpec:
    output = Output(
        name="checkpoints",
        uri=f"s3://{bucket}/ck/a{attempt}/",
        paths=("/ml/output/checkpoints",),
        commit=False,
        env="MW_CHECKPOINT_DIR",
        restore=tuple(f"s3://{bucket}/ck/a{earlier}/" for earlier in range(attempt - 1, 0, -1)),
    )
    return python(number, program, outputs=(output,))


def test_a_checkpoint_is_in_the_store_while_the_run_works(
    agent: InProcessAgent, objects: ObjectClient, bucket: str
) -> None:
    program = """
import time
from pathlib import Path
from modelworks.train import checkpoint, paths
(paths.checkpoints() / "notes.txt").write_text("mine")
for step in (500, 1000, 1500, 2000):
    checkpoint.save(step, value=step, wait=True)
print("saved", flush=True)
time.sleep(600)
"""
    root = ObjectUri(bucket, "ck/a1/")
    run = _run(0, program, bucket)
    agent.ensure(run)
    wait_log(agent, run.key, b"saved")
    poll(lambda: objects.exists(root / "step-2000" / MANIFEST))
    agent.stop(run.key, 0.0)
    wait_ended(agent, run.key)
    expected = {f"step-{step}/{name}" for step in (1000, 1500, 2000) for name in (CONTENTS, MANIFEST)}
    assert _names(objects, root) == expected | {"notes.txt"}

    program = """
from modelworks.train import checkpoint, paths
found = checkpoint.restore()
print(found.step, found.state["value"], (paths.checkpoints() / "notes.txt").read_text(), flush=True)
checkpoint.save(2500, value=2500)
"""
    again = _run(1, program, bucket, attempt=2)
    agent.ensure(again)
    assert wait_ended(agent, again.key).reason is RunReason.COMPLETED
    assert agent.log(again.key) == b"2000 2000 mine\n"
    # What was restored is not sent again; each attempt writes where it alone writes, and of all the last three stay.
    steps = {name.split("/")[0] for name in _names(objects, ObjectUri(bucket, "ck/a2/"))}
    assert steps == {"step-2500", "notes.txt"}
    assert {name.split("/")[0] for name in _names(objects, root)} == {"step-1500", "step-2000", "notes.txt"}


def test_the_newest_is_sent_first_and_its_manifest_last(
    objects: ObjectClient, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(tmp_path, 5, 20, 100)
    sent: list[str] = []
    put = objects.put
    monkeypatch.setattr(objects, "put", lambda uri, data: (sent.append(uri.key), put(uri, data)))
    uploader = CheckpointUploader(tmp_path, ObjectUri(bucket, "a1/"), [], objects)
    assert uploader.latest is None
    uploader.sync()
    assert sent == [f"a1/step-{step}/{MANIFEST}" for step in (100, 20, 5)]
    assert uploader.latest == 100
    uploader.sync()
    assert len(sent) == 3  # nothing is sent twice
    another = CheckpointUploader(tmp_path, ObjectUri(bucket, "a1/"), [], objects)
    another.sync()  # of an agent that was started again
    assert (len(sent), another.latest) == (3, 100)


def test_what_retention_removes_goes_from_the_store_once_something_newer_is_there(
    objects: ObjectClient, bucket: str, tmp_path: Path
) -> None:
    root = ObjectUri(bucket, "a1/")
    uploader = CheckpointUploader(tmp_path, root, [], objects)
    _save(tmp_path, 1, 2)
    uploader.sync()
    assert _names(objects, root) == _step(1) | _step(2)
    _save(tmp_path, 3, keep=1)
    uploader.sync(closing=lambda: True)  # the run ends before the new one is sent
    assert _names(objects, root) == _step(1) | _step(2)
    uploader.sync()
    assert _names(objects, root) == _step(3)
    for path in tmp_path.iterdir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    uploader.sync()
    assert _names(objects, root) == _step(3)  # the last one stays


def test_of_many_attempts_no_more_is_kept_than_of_one(objects: ObjectClient, bucket: str, tmp_path: Path) -> None:
    folders = [ObjectUri(bucket, f"a{number}/") for number in range(1, 5)]
    for number, root in enumerate(folders, start=1):
        here = tmp_path / root.key
        here.mkdir()
        restore(objects, folders[: number - 1][::-1], here)
        uploader = CheckpointUploader(here, root, folders[: number - 1][::-1], objects)
        uploader.sync()
        before = {name for folder in folders for name in _names(objects, folder)}
        _save(here, number * 10, keep=2)
        uploader.sync(closing=lambda: True)
        assert {name for folder in folders for name in _names(objects, folder)} == before
        uploader.sync()
    assert [_names(objects, folder) for folder in folders] == [set(), set(), _step(30), _step(40)]


def test_what_was_not_restored_stays_as_long_as_it_is_kept(objects: ObjectClient, bucket: str, tmp_path: Path) -> None:
    folders = [ObjectUri(bucket, f"a{number}/") for number in (1, 2)]
    first, second = (tmp_path / uri.key for uri in folders)
    _save(first, *range(1, 8), keep=6)
    CheckpointUploader(first, folders[0], [], objects).sync()
    restore(objects, folders[:1], second)
    assert [place.step for place in layout.places(second)] == [5, 6, 7]
    _save(second, 8, keep=6)
    uploader = CheckpointUploader(second, folders[1], folders[:1], objects)
    uploader.sync()
    kept = {name.split("/")[0] for folder in folders for name in _names(objects, folder)}
    assert kept == {f"step-{step}" for step in range(3, 9)}
    _save(second, 9, 10, 11, 12, keep=6)
    uploader.sync()
    assert [_names(objects, folder) for folder in folders] == [_step(7), set().union(*map(_step, range(8, 13)))]


def test_a_rank_has_what_the_first_one_saved_and_sends_back_what_it_wrote_itself(
    agent: InProcessAgent, objects: ObjectClient, bucket: str
) -> None:
    """The first rank saves and all load: the folder of another rank begins with its files, as far as it has none."""

    def attempt(number: int, rank: int, program: str) -> None:
        root = f"s3://{bucket}/ck/a"
        earlier = range(number - 1, 0, -1)
        run = python(number * 10 + rank, program)
        output = Output(
            name="checkpoints",
            uri=f"{root}{number}{f'.rank{rank}' if rank else ''}/",
            paths=("/ml/output/checkpoints",),
            commit=False,
            env="MW_CHECKPOINT_DIR",
            restore=tuple(f"{root}{n}{f'.rank{rank}' if rank else ''}/" for n in earlier),
            lent=tuple(f"{root}{n}/" for n in earlier) if rank else (),
        )
        agent.ensure(run.model_copy(update={"outputs": (output,)}))
        ended = wait_ended(agent, run.key)
        assert ended.reason is RunReason.COMPLETED, ended

    write = "import os, pathlib; here = pathlib.Path(os.environ['MW_CHECKPOINT_DIR'])\n"
    attempt(1, 0, write + "(here / 'step-1').mkdir(); [(here / n).write_text('first') for n in ('ckpt.pt', 'own.pt')]")
    attempt(1, 1, write + "(here / 'own.pt').write_text('second')")
    look = write + "assert {p.name: p.read_text() for p in here.iterdir()} == {'ckpt.pt': '%s', 'own.pt': 'second'}\n"
    attempt(2, 1, look % "first")
    assert _names(objects, ObjectUri(bucket, "ck/a2.rank1/")) == {"own.pt"}
    # It is not held to what it was lent once: the first rank has gone on.
    attempt(2, 0, write + "(here / 'ckpt.pt').write_text('later')")
    attempt(3, 1, look % "later" + "(here / 'ckpt.pt').write_text('mine now')")
    assert _names(objects, ObjectUri(bucket, "ck/a3.rank1/")) == {"own.pt", "ckpt.pt"}


def test_a_step_that_is_saved_anew_replaces_the_old_one(objects: ObjectClient, bucket: str, tmp_path: Path) -> None:
    root = ObjectUri(bucket, "a1/")
    uploader = CheckpointUploader(tmp_path, root, [], objects)
    _save(tmp_path, 1, value="old")
    uploader.sync()
    _save(tmp_path, 1, value="new")
    uploader.sync()
    restore(objects, [root], tmp_path / "again")
    found = Checkpointer(tmp_path / "again").restore()
    assert found
    assert found.state["value"] == "new"


def test_whoever_is_late_neither_sends_nor_deletes(objects: ObjectClient, bucket: str, tmp_path: Path) -> None:
    folders = [ObjectUri(bucket, f"a{number}/") for number in (1, 2)]
    first, second = (tmp_path / uri.key for uri in folders)
    _save(first, 1, 2)
    CheckpointUploader(first, folders[0], [], objects).sync()
    restore(objects, folders[:1], second)
    over = False

    def check() -> None:
        if over:
            raise Conflict("the lease is over")

    output = Output(name="checkpoints", uri=str(folders[1]), paths=("/ml",), commit=False, restore=(str(folders[0]),))
    uploader = OutputUploader(second, output, "job123/a2/0/0", objects, check).checkpoints
    assert uploader
    _save(second, 3, keep=1)
    over = True
    uploader.sync()
    assert [_names(objects, folder) for folder in folders] == [_step(1) | _step(2), set()]
    over = False
    sent = objects.put

    def last(uri: ObjectUri, data: bytes) -> None:
        nonlocal over
        sent(uri, data)
        over = True  # when the manifest is there, and nothing is deleted yet

    objects.put = last  # type: ignore[method-assign]
    uploader.sync()
    assert [_names(objects, folder) for folder in folders] == [_step(1) | _step(2), _step(3)]


def test_what_goes_while_it_is_restored_is_done_without(
    objects: ObjectClient, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, download = ObjectUri(bucket, "a1/"), transfer.download_named
    _save(tmp_path / "a1", 1, 2, 3, 4, keep=4)
    CheckpointUploader(tmp_path / "a1", root, [], objects).sync()
    looks = []

    def meanwhile(client: ObjectClient, wanted: dict[str, ObjectUri], directory: Path) -> None:
        if not looks:
            objects.delete(root / "step-2" / "blobs.bin")
            objects.delete(root / "step-2" / MANIFEST)
        looks.append(sorted({name.split("/")[0] for name in wanted}))
        download(client, wanted, directory)

    monkeypatch.setattr(transfer, "download_named", meanwhile)
    restore(objects, [root], tmp_path / "again")
    assert looks == [["step-2", "step-3", "step-4"], ["step-1", "step-3", "step-4"]]
    assert [place.step for place in layout.places(tmp_path / "again")] == [1, 3, 4]
    with pytest.raises(NotFound):
        restore(objects, [ObjectUri("no-such-bucket", "x/")], tmp_path / "none")


def test_torn_ones_are_neither_sent_nor_restored(objects: ObjectClient, bucket: str, tmp_path: Path) -> None:
    root = ObjectUri(bucket, "a1/")
    _save(tmp_path, 1, 2, 3, 4, keep=9)
    (tmp_path / "step-4" / "blobs.bin").write_bytes(b"")
    (tmp_path / "step-3" / MANIFEST).unlink()
    outside = tmp_path.with_name("outside")
    outside.write_text("secret")
    (tmp_path / "step-2" / "link").symlink_to(outside)
    CheckpointUploader(tmp_path, root, [], objects).sync()
    assert _names(objects, root) == _step(1) | _step(2)
    objects.delete(root / "step-2" / "blobs.bin")
    restore(objects, [root], tmp_path / "again")
    assert [place.step for place in layout.places(tmp_path / "again")] == [1]


def test_only_the_newest_few_whole_ones_of_all_attempts_are_restored(
    objects: ObjectClient, bucket: str, tmp_path: Path
) -> None:
    attempts = [ObjectUri(bucket, f"a{number}/") for number in (1, 2, 3)]
    for uri, steps in zip(attempts, ((8, 9, 10), (10, 100), (11,)), strict=True):
        folder = tmp_path / uri.key
        _save(folder, *steps, value=uri.key)
        CheckpointUploader(folder, uri, [], objects).sync()
    objects.delete(attempts[2] / "step-11" / MANIFEST)
    objects.put(attempts[0] / "step-7/mine.bin", b"a folder of the user's own")
    objects.put(attempts[0] / "rank-1/notes", b"x")
    restore(objects, attempts[::-1], tmp_path / "again")
    again = Checkpointer(tmp_path / "again")
    assert [place.step for place in layout.places(tmp_path / "again")] == [7, 9, 10, 100]
    assert (tmp_path / "again" / "rank-1" / "notes").exists()
    found = again.restore(step=10)
    assert found
    assert found.state["value"] == "a2/"  # of the same step the later attempt's
