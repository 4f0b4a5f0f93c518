"""The only interpreter of decisions. Every action may be carried out twice; no network call is made in a transaction.

Actions run in order. Those on the database are gathered and committed before the next action that reaches outside, the
last of them together with the status: a pass that dies between two steps is repaired by the next one. Events and the
removal of the row belong to the last transaction, so that a pass that is repeated does not tell twice.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import assert_never

from sqlalchemy import Connection, Engine

from modelworks import relay
from modelworks.control import children, stacks, tuner
from modelworks.control.fleet import Fleet
from modelworks.db import claims, events, jobkeys, ledger, resources, revisions, routes, scale, secrets
from modelworks.db.engine import single
from modelworks.db.resources import Lease, LeaseLost, Settled
from modelworks.db.secrets import Cipher
from modelworks.kernel.decision import (
    CancelChild,
    CaptureStacks,
    CopyObjects,
    CreateChild,
    Decision,
    DropTrials,
    Emit,
    EnsureBucket,
    EnsureDirectory,
    EnsureKey,
    EnsureRun,
    EnsureSecret,
    ForgetRun,
    Meter,
    PublishRoute,
    RecordRevision,
    RecordScale,
    Release,
    Remove,
    RemoveBucket,
    RemoveChild,
    RemoveDirectory,
    RemoveKey,
    RemoveObjects,
    Reserve,
    StopRun,
    Transfer,
    TuneTrials,
    WithdrawRoute,
)
from modelworks.kernel.errors import Conflict, NotFound, Unavailable
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunKey
from modelworks.objectstore import buckets
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.publish import publish
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.kind import Kind
from modelworks.settings import Settings
from modelworks.tracking import tokens

# Longer than any single action takes, but for the removal of a large directory; every step renews it.
LEASE_SECONDS = 60.0
_BUCKET_BELIEVED = 10.0  # seconds for which a bucket that was there is taken to be there still
_STORE_DEADLINE = 5.0  # seconds; what the store does not answer in is tried again by the next pass

_Routing = PublishRoute | WithdrawRoute | RecordRevision | RecordScale
_Stored = Reserve | Release | Transfer | _Routing | EnsureSecret | EnsureKey | RemoveKey | Meter | Emit
_Trial = CreateChild | CancelChild | RemoveChild | TuneTrials | DropTrials
_Outside = (
    EnsureRun
    | StopRun
    | CaptureStacks
    | _Trial
    | ForgetRun
    | EnsureBucket
    | CopyObjects
    | RemoveObjects
    | EnsureDirectory
    | RemoveDirectory
)


@dataclass(frozen=True)
class Sweeps:
    """What trials of sweeps are made with: jobs by apply, their parameters by the tuner."""

    kinds: Mapping[str, Kind]
    settings: Settings
    tuner: tuner.Tuner


@dataclass(frozen=True)
class Actor:
    """Carries out decisions with the doors of one controller. ``volumes`` is where directories may be removed."""

    engine: Engine
    fleet: Fleet
    cipher: Cipher
    credentials: Callable[[], Credentials]
    volumes: Path
    sweeps: Sweeps | None = None
    _buckets: dict[str, float] = field(default_factory=dict)  # when each was last seen to exist, monotonic

    def carry_out(self, lease: Lease, decision: Decision) -> float | None:
        """All actions, then the status, which ends the lease; returns the seconds until the row is due again.

        Raises Unavailable when a node, the store or the database is away, and LeaseLost when the lease was lost: the
        actions before stand, and the next pass decides anew.
        """
        stored: list[_Stored] = []
        told: list[Emit] = []
        removed = kept = False
        sure_until = 0.0  # the lease was not renewed yet: the decision may have waited for a worker
        unstopped: Unavailable | None = None
        for action in decision.actions:
            if unstopped is not None and not isinstance(action, StopRun):
                break
            if isinstance(action, Emit):
                told.append(action)
            elif isinstance(action, Remove):
                removed = True
            elif isinstance(action, _Stored):
                stored.append(action)
            elif isinstance(action, RemoveBucket):
                sure_until, stored = self._commit(lease, stored, sure_until), []
                holds, said = self._remove_bucket(action)
                kept, told = kept or holds, told + said
            elif isinstance(action, _Outside):
                sure_until, stored = self._commit(lease, stored, sure_until), []
                try:
                    told += self._reach(lease, action)
                except Unavailable as error:
                    if not isinstance(action, StopRun):
                        raise
                    unstopped = error  # one node that is away must not keep the others' runs alive
            else:
                assert_never(action)
        if unstopped is not None:
            raise unstopped
        goes = removed and not kept
        if not (goes or stored or told):
            with single(self.engine) as connection:
                return self._finish(connection, lease, decision)
        with self.engine.begin() as connection:
            due_in = None
            if goes:
                self._guard(connection, lease)
            else:
                due_in = self._finish(connection, lease, decision)
            for item in (*stored, *told):
                self._store(connection, lease.resource, item)
            if goes:
                self._remove(connection, lease.resource)
            return due_in

    def _remove_bucket(self, action: RemoveBucket) -> tuple[bool, list[Emit]]:
        """Whether it holds objects, so that the resource waits with it; and what is told of that."""
        self._buckets.pop(action.bucket, None)
        try:
            buckets.remove(self.credentials(), action.bucket)
        except Conflict as error:
            return True, [] if action.quiet else [Emit("BucketNotEmpty", error.detail, Level.WARNING)]
        return False, []

    def _commit(self, lease: Lease, stored: Sequence[_Stored], sure_until: float) -> float:
        """What was gathered, under a renewed lease; returns until when (monotonic) the lease is sure to be held."""
        if not stored and time.monotonic() < sure_until:
            return sure_until
        with self.engine.begin() if stored else single(self.engine) as connection:
            self._guard(connection, lease)
            for action in stored:
                self._store(connection, lease.resource, action)
        return time.monotonic() + LEASE_SECONDS / 4

    def _beat(self, lease: Lease) -> Callable[[], None]:
        """Renews the lease now and then, for what may take longer. Raises LeaseLost: another one is at it."""
        sure_until = time.monotonic() + LEASE_SECONDS / 4

        def beat() -> None:
            nonlocal sure_until
            sure_until = self._commit(lease, (), sure_until)

        return beat

    def _guard(self, connection: Connection, lease: Lease) -> None:
        """Nothing is written by who no longer holds the lease; until the commit, nobody else can take it."""
        if not resources.renew(connection, lease, LEASE_SECONDS):
            raise LeaseLost(lease.resource.ref)

    def _finish(self, connection: Connection, lease: Lease, decision: Decision) -> float | None:
        """End the lease, first in its transaction: as after ``_guard``, nobody else takes the row before the commit."""
        if decision.status == lease.resource.status:
            settled = resources.settle(connection, [Settled(lease, decision.wake_in)])
            if not settled:
                raise LeaseLost(lease.resource.ref)
            return settled[lease.resource.uid]
        return resources.write_status(connection, lease, decision.status, decision.wake_in)

    def _store(self, connection: Connection, resource: Resource, action: _Stored) -> None:
        ref, uid = resource.ref, resource.uid
        match action:
            case Reserve(wanted):
                claims.reserve(connection, uid, wanted)
            case Release(key, ended_at):
                claims.release(connection, key)
                ledger.end(connection, key, ended_at)
            case Transfer(key, claim, ended_at):
                if claims.transfer(connection, key, claim):
                    ledger.end(connection, key, ended_at)
                    item, hourly = claim.instance_type, claim.price_per_hour
                    ledger.begin(connection, ref, uid, key=claim.key, item=item, price_per_hour=hourly)
            case PublishRoute(workspace, name, route):
                routes.publish(connection, workspace, name, uid, route)
            case WithdrawRoute(workspace, name):
                routes.withdraw(connection, workspace, name, uid)
            case RecordRevision(revision, spec, resolved):
                revisions.record(connection, uid, revision, spec, resolved)
            case RecordScale(before, after, reason, numbers):
                scale.record(connection, uid, before=before, after=after, reason=reason, numbers=numbers)
            case EnsureSecret(name):
                secrets.ensure(connection, self.cipher, uid, name)
            case EnsureKey(epoch):
                jobkeys.ensure(connection, self.cipher, uid, epoch, ref.workspace)
            case RemoveKey():
                jobkeys.remove(connection, uid)
            case Meter(key, item, quantity, unit, price, ended):
                if ended:
                    ledger.end(connection, key)
                else:
                    terms = {"quantity": quantity, "price_per_hour": price}
                    ledger.begin(connection, ref, uid, key=key, item=item, unit=unit, **terms)
            case Emit(reason, message, level, data):
                events.append(connection, ref, uid, reason, message, level, data)
            case _:
                assert_never(action)

    def _remove(self, connection: Connection, resource: Resource) -> None:
        claims.release_all(connection, resource.uid)
        ledger.end_all(connection, resource.uid)
        routes.withdraw_all(connection, resource.uid)
        secrets.remove(connection, resource.uid)
        jobkeys.remove(connection, resource.uid)
        events.append(connection, resource.ref, resource.uid, "Deleted", "deleted")
        resources.remove(connection, resource.uid)

    def _reach(self, lease: Lease, action: _Outside) -> list[Emit]:
        """Carry out what leaves this process; returns what is to be told of it."""
        resource = lease.resource
        match action:
            case EnsureRun(node, run, epoch):
                if epoch:
                    token = jobkeys.key_text(self.cipher, resource.uid, epoch)
                    run = run.model_copy(update={"env": {"MW_TOKEN": token, **run.env}})
                if tokens.wanted(resource.resolved, run.env):
                    own = tokens.token(self.cipher, resource.uid, int(RunKey.parse(run.key).attempt[1:]))
                    run = run.model_copy(update={"env": {tokens.VARIABLE: own, **run.env}})
                runtime, run = self.fleet.runtime(node), self.fleet.leased(node, run)
                if run.listen is not None and run.lease is not None:  # it is on another machine
                    run = run.model_copy(update={"relay": relay.digest(relay.secret(self.cipher, run.key))})
                self.fleet.picture(node).add(runtime.ensure(run))
            case StopRun(node, key, grace, reason, message):
                self.fleet.runtime(node).stop(key, grace, reason, message)
            case CaptureStacks():
                return stacks.capture(self.fleet, action)
            case CreateChild() | CancelChild() | RemoveChild() | TuneTrials() | DropTrials():
                return self._try(resource, action)
            case ForgetRun(node, key):
                if not self.fleet.lost(node):  # else it is tidied up when the node returns
                    self.fleet.runtime(node).forget(key)
                self.fleet.picture(node).drop(key)
            case EnsureBucket(bucket):
                if not self._seen_bucket(bucket):
                    buckets.create(self.credentials(), bucket)
                    self._buckets[bucket] = time.monotonic()
            case CopyObjects(source, target):
                client = ObjectClient(self.credentials, deadline=_STORE_DEADLINE)
                publish(client, ObjectUri.parse(source), ObjectUri.parse(target), self._beat(lease))
            case RemoveObjects(uri):
                with suppress(NotFound):  # there is no such bucket: nothing was ever written
                    ObjectClient(self.credentials, deadline=_STORE_DEADLINE).delete_prefix(ObjectUri.parse(uri))
            case EnsureDirectory(path, _):
                _make_directory(Path(path))
            case RemoveDirectory(path):
                return _remove_directory(Path(path), self.volumes)
            case _:
                assert_never(action)
        return []

    def _seen_bucket(self, bucket: str) -> bool:
        """Whether it existed a moment ago: of many jobs of a workspace not each has to ask."""
        return time.monotonic() - self._buckets.get(bucket, -_BUCKET_BELIEVED) < _BUCKET_BELIEVED

    def _try(self, resource: Resource, action: _Trial) -> list[Emit]:
        assert self.sweeps is not None
        kinds, settings = self.sweeps.kinds, self.sweeps.settings
        match action:
            case CreateChild():
                children.create(self.engine, settings, kinds, resource, action)
            case CancelChild():
                children.cancel(self.engine, resource, action)
            case RemoveChild():
                children.remove(self.engine, kinds, resource, action)
            case TuneTrials():
                tuner.tune(self.sweeps.tuner, self.engine, resource, action)
            case DropTrials(known):
                kept = tuner.drop(self.sweeps.tuner, resource)
                return [Emit("StudyKept", kept, Level.WARNING)] if kept and known else []
            case _:
                assert_never(action)
        return []


def is_quiet(resource: Resource, decision: Decision) -> bool:
    """A pass that changes nothing."""
    return not decision.actions and decision.status == resource.status


def _make_directory(path: Path) -> None:
    """Workloads run under accounts of their own, so everybody may write who comes this far."""
    path.mkdir(parents=True, exist_ok=True)
    if path.stat().st_mode & 0o777 != 0o777:  # also of one whose maker was killed before it came so far
        path.chmod(0o777)


def _remove_directory(path: Path, volumes: Path) -> list[Emit]:
    """Only what the platform made is removed: a directory that the user brought stays."""
    if not path.resolve().is_relative_to(volumes.resolve()) or path.resolve() == volumes.resolve():
        return [Emit("DirectoryKept", f"{path} is not the platform's own and stays", Level.WARNING)]
    # Two may be at it, when the first takes longer than its lease: what is gone already is as wished.
    shutil.rmtree(path, onerror=_ignore_missing)
    return []


def _ignore_missing(function: object, path: str, failure: tuple[type[BaseException], BaseException, object]) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]
