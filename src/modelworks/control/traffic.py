"""What the gateways say of the services' traffic, merged: docs/architecture.md, "Traffic reports".

Several processes report, and each may begin anew with counters at zero: the sums here only grow, as long as this
controller lives. A gap is no silence: as long as not every process that should report does, the service is not known.
What the others say is the least that there is, and is kept apart from what who is silent said last.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelworks.kernel.traffic import NOTHING, PATIENCE, UNAVAILABLE, RevisionCounts, Sample, Traffic

_DENSE = 120.0  # seconds of samples as they came; of those before, one in _SPARSE seconds is kept
_SPARSE = 5.0
_KEPT = 600.0
_MOST = 320  # samples of one service before they are thinned
_PERIOD = 0.95  # reports of one second become one sample
_QUIET = 2.0  # after so long without a change, a change is news
_ERRORS_EVERY = 10.0  # who has errors is looked at so often, for its alerts
_FOLLOWED = 60.0  # seconds that an interest lasts which nobody repeats
_CLEAN = 60.0  # seconds between two looks for services that are no more
_BEGUN = re.compile(r"-(\d{9,16})$")


@dataclass
class _Door:
    """One connection to a process that reports. ``services`` are its own numbers as it told them last."""

    heard: float
    told: bool = False
    silent: bool = False  # for longer than PATIENCE: its moments hold no more
    source: str = ""
    services: dict[str, Sample] = field(default_factory=dict)


class TrafficStore:
    """Thread-safe. ``wake`` is called with the uid of a service that should be looked at."""

    def __init__(self, wake: Callable[[str], None], clock: Callable[[], float] = time.time) -> None:
        self._wake = wake
        self._clock = clock
        self._begun = self._cleaned = clock()
        self._lock = threading.Lock()
        # Below: guarded by the lock.
        self._doors: dict[Hashable, _Door] = {}
        self._counters: dict[str, dict[str, Sample]] = {}  # source → uid → what it told last
        self._samples: dict[str, list[Sample]] = {}
        self._since: float | None = None
        self._until: float | None = None
        self._heard_since: float | None = None
        self._heard_until: float | None = None
        self._every: dict[str, tuple[float, float]] = {}  # uid → seconds between looks, until when
        self._woken: dict[str, tuple[float, int]] = {}  # uid → when, and how many errors there were

    def expect(self, doors: set[Hashable]) -> None:
        """The connections that there should be: unless all of them report, nothing is known."""
        now = self._clock()
        with self._lock:
            for door in doors - self._doors.keys():
                self._doors[door] = _Door(now)
            for door in self._doors.keys() - doors:
                self._drop(door, now)
            for known in self._doors.values():
                if not known.silent and now - known.heard > PATIENCE:
                    known.silent = True
                    self._amend(known.services, now)
            self._hear(now)
            if now - self._cleaned >= _CLEAN:
                self._cleaned = now
                self._clean(now)

    def begin(self, door: Hashable) -> None:
        """The process behind it is connected anew, and will tell everything."""
        with self._lock:
            known = self._doors.get(door)
            if known is not None:
                known.services = {}

    def hear(self, door: Hashable, report: Mapping[str, Any]) -> None:
        """One report. Raises KeyError, TypeError and ValueError for what is none."""
        source, at = str(report["source"]), float(report["at"])
        samples = {str(uid): Sample.parse(at, document) for uid, document in report["services"].items()}
        gone = [str(uid) for uid in report.get("gone", ())]
        now = self._clock()
        with self._lock:
            known = self._doors.setdefault(door, _Door(now))
            counters = self._counters.get(source)
            first = counters is None
            if counters is None:
                counters = self._counters[source] = {}
            # A process that was there before this controller has counted what nobody here can date.
            undated = first and not self._begun_since(source)
            urgent = set()
            for uid in gone:
                # Should it come back, it counts from zero.
                counters.pop(uid, None)
                self._end(uid, known.services.pop(uid, None), now)
            if self._heard_since is None or now - known.heard > PATIENCE:
                # It may count now what came while it was silent, and nobody can date that.
                self._heard_since = now
            if known.silent:
                known.silent = False
                self._amend({uid: sample for uid, sample in known.services.items() if uid not in samples}, now)
            for uid, sample in samples.items():
                before = counters.get(uid, sample if undated else Sample(at))
                if sample.arrived < before.arrived:
                    before = Sample(at)
                counters[uid] = known.services[uid] = sample
                if self._add(uid, at, before, sample, dated=not undated):
                    urgent.add(uid)
            known.source, known.heard, known.told = source, now, True
            self._heard_until = now
            self._hear(now)
        for uid in urgent:
            self._wake(uid)

    def traffic(self, uid: str, every: float | None = None) -> Traffic:
        """The samples of a service. ``every``: for the next minute it is woken so often while its traffic changes."""
        with self._lock:
            if every is not None:
                self._every[uid] = every, self._clock() + _FOLLOWED
            else:
                self._every.pop(uid, None)
            return self._traffic(uid)

    def peek(self, uid: str) -> Traffic:
        """As :meth:`traffic`, for who only reads."""
        with self._lock:
            return self._traffic(uid)

    def _traffic(self, uid: str) -> Traffic:
        samples = tuple(self._samples.get(uid, ()))
        return Traffic(samples, self._since, self._until, self._heard_since, self._heard_until)

    def _begun_since(self, source: str) -> bool:
        found = _BEGUN.search(source)
        begun = float(found.group(1)) if found else 0.0
        while begun > 1e11:  # milli-, micro- or nanoseconds
            begun /= 1000
        return begun >= self._begun

    def _hear(self, now: float) -> None:
        """From when to when everything is known."""
        if not self._doors or (self._since is None and not all(door.told for door in self._doors.values())):
            return
        if self._since is None or (self._until is not None and now - self._until > PATIENCE):
            # A gap that was longer than one may wait: what happened in it is not known.
            if not all(door.told and now - door.heard <= PATIENCE for door in self._doors.values()):
                return
            self._since = now
        self._until = min(door.heard for door in self._doors.values())

    def _drop(self, door: Hashable, now: float) -> None:
        gone = self._doors.pop(door)
        if not any(other.source == gone.source for other in self._doors.values()):
            self._counters.pop(gone.source, None)
        self._amend(gone.services, now)

    def _amend(self, services: Mapping[str, Sample], now: float) -> None:
        """Who told of these holds them no more, or again."""
        for uid, sample in services.items():
            self._end(uid, sample, now)

    def _end(self, uid: str, sample: Sample | None, now: float) -> None:
        """``sample`` is what was last heard of a service from who tells nothing of it any more."""
        if sample is not None and (sample.demand or sample.hung):
            self._append(uid, self._merged(uid, now, Sample(now), Sample(now)))

    def _clean(self, now: float) -> None:
        """Forget the services that nobody has told of for as long as anybody looks back."""
        told = {uid for door in self._doors.values() for uid in door.services}
        for uid in [u for u, samples in self._samples.items() if u not in told and samples[-1].at < now - _KEPT]:
            del self._samples[uid]
            self._woken.pop(uid, None)
            self._every.pop(uid, None)
            for counters in self._counters.values():
                counters.pop(uid, None)

    def _add(self, uid: str, at: float, before: Sample, sample: Sample, *, dated: bool) -> bool:
        """Merge one service's numbers; whether somebody should look at it now."""
        samples = self._samples.setdefault(uid, [])
        last = samples[-1] if samples else None
        if last is None and dated:
            samples.append(Sample(at - 1.0))
        merged = self._merged(uid, at, before, sample)
        self._append(uid, merged)
        return self._urgent(uid, last, merged)

    def _merged(self, uid: str, at: float, before: Sample, sample: Sample) -> Sample:
        """The sums with what ``sample`` counts more than ``before``; moments are those of all doors together."""
        samples = self._samples.get(uid)
        last = samples[-1] if samples else Sample(at)
        revisions = {name: replace(counts, in_flight=0) for name, counts in last.revisions.items()}
        for name, counts in sample.revisions.items():
            more = counts.minus(before.revisions.get(name, NOTHING))
            revisions[name] = revisions.get(name, NOTHING).plus(replace(more, in_flight=0))
        present = [d.services[uid] for d in self._doors.values() if uid in d.services and not d.silent]
        for one in present:
            for name, counts in one.revisions.items():
                known = revisions.get(name, RevisionCounts())
                revisions[name] = replace(known, in_flight=known.in_flight + counts.in_flight)
        return Sample(
            at=max(at, last.at),
            in_flight=sum(one.in_flight for one in present),
            queued=sum(one.queued for one in present),
            oldest=max((one.oldest for one in present), default=0.0),
            arrived=last.arrived + sample.arrived - before.arrived,
            rejected=last.rejected + sample.rejected - before.rejected,
            revisions=revisions,
            refusals={
                code: last.refusals.get(code, 0) + sample.refusals.get(code, 0) - before.refusals.get(code, 0)
                for code in last.refusals.keys() | sample.refusals.keys()
            },
            hung=frozenset().union(*(one.hung for one in present)),
        )

    def _append(self, uid: str, sample: Sample) -> None:
        samples = self._samples.setdefault(uid, [])
        if len(samples) > 1 and samples[-1].at - samples[-2].at < _PERIOD:
            samples[-1] = sample
        else:
            samples.append(sample)
        if len(samples) > _MOST:
            reported = {name for door in self._doors.values() if uid in door.services
                        for name in door.services[uid].revisions}  # fmt: skip
            self._samples[uid] = _without_former(_thinned(samples, sample.at), reported)

    def _urgent(self, uid: str, last: Sample | None, sample: Sample) -> bool:
        errors = sum(counts.errors for counts in sample.revisions.values()) + sample.refusals.get(UNAVAILABLE, 0)
        told, before = self._woken.setdefault(uid, (0.0, errors))
        woken = sample.at - told
        every, until = self._every.get(uid, (None, 0.0))
        waits = sample.queued > 0 and sample.in_flight == 0
        news = last is None or sample.at - last.at > _QUIET or (waits and not last.queued)
        if (
            sample.hung - (last.hung if last is not None else frozenset())
            or ((news or waits) and woken >= min(every or 1.0, 1.0) * 0.2)
            or (every is not None and until >= sample.at and woken >= every * _PERIOD)
            or (errors > before and woken >= _ERRORS_EVERY)
        ):
            self._woken[uid] = sample.at, errors
            return True
        return False


def _thinned(samples: list[Sample], now: float) -> list[Sample]:
    """Those of the last two minutes, and before them one each few seconds for as long as anybody looks back."""
    kept: list[Sample] = []
    for index, sample in enumerate(samples):
        following = samples[index + 1].at if index + 1 < len(samples) else now
        if following < now - _KEPT:
            continue  # not even what held when that time began
        if sample.at < now - _DENSE and kept and sample.at - kept[-1].at < _SPARSE:
            continue
        kept.append(sample)
    return kept


def _without_former(samples: list[Sample], reported: set[str]) -> list[Sample]:
    """Without the revisions that nobody tells of any more and that answered nothing in all that time."""
    first, last = samples[0].revisions, samples[-1].revisions
    former = {name for name, counts in last.items() if name not in reported and first.get(name) == counts}
    if not former:
        return samples
    return [
        replace(one, revisions={name: counts for name, counts in one.revisions.items() if name not in former})
        for one in samples
    ]
