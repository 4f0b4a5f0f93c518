"""The replicas of one attempt by rank: who is of which role, and where each can be reached. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelworks.kernel.run import Peer, Rendezvous
from modelworks.products.training.policy_spec import Framework, Role
from modelworks.products.training.spec import TrainingJobSpec

LOOPBACK, LOOPBACK_INTERFACE = "127.0.0.1", "lo"
DEFAULT_ROLE = "worker"
_LASTING = ("ps", "evaluator")
# Between those of the embedded object store and the kernel's range of ephemeral ports, which begins at 32768.
_FIRST_PORT, _PORTS = 23_000, 7_000


@dataclass(frozen=True)
class Place:
    """A node that holds a replica: its name, where others reach what runs on it, and whether it may be cut off."""

    node: str = ""
    address: str = LOOPBACK
    interface: str = LOOPBACK_INTERFACE
    leased: bool = False


@dataclass(frozen=True)
class Member:
    """One replica. ``ordinal`` is of its run key; ``rank`` counts those that are there, ``index`` those of its role."""

    ordinal: int
    rank: int
    role: str
    index: int
    place: Place


@dataclass(frozen=True)
class Gang:
    """The members by rank. ``port`` is the first of as many ports as there are members: one each, by rank."""

    members: tuple[Member, ...]
    port: int
    nonce: str

    @classmethod
    def of(cls, spec: TrainingJobSpec, uid: str, attempt: int, places: Mapping[int, Place]) -> Gang:
        """The gang whose ordinals are at these places; of an elastic job they may be fewer than its size."""
        names = role_names(spec)
        counts: dict[str, int] = {}
        members = []
        for rank, ordinal in enumerate(sorted(places)):
            role = names[ordinal]
            index = counts.get(role, 0)
            counts[role] = index + 1
            members.append(Member(ordinal, rank, role, index, places[ordinal]))
        return cls(tuple(members), master_port(uid, attempt), _nonce(uid, attempt))

    @property
    def size(self) -> int:
        return len(self.members)

    @cached_property
    def local(self) -> bool:
        """Whether all are on one node, and so need nothing of its network but the loopback."""
        return len({member.place.node for member in self.members}) <= 1

    def member(self, ordinal: int) -> Member:
        """Raises KeyError for a replica that is not of this gang."""
        return self._by_ordinal[ordinal]

    @cached_property
    def _by_ordinal(self) -> Mapping[int, Member]:
        return {member.ordinal: member for member in self.members}

    def address(self, member: Member) -> str:
        """Where the other members reach this one."""
        return LOOPBACK if self.local else member.place.address

    def interface(self, member: Member) -> str:
        """The network interface by which this member reaches the others."""
        return LOOPBACK_INTERFACE if self.local else member.place.interface

    def port_of(self, member: Member) -> int:
        return self.port + member.rank

    @property
    def master(self) -> str:
        """Rank 0's address."""
        return self.address(self.members[0])

    def of_role(self, role: str) -> Sequence[Member]:
        return [member for member in self.members if member.role == role]

    @property
    def roles(self) -> list[str]:
        """The roles that have members, in the order of their ranks."""
        return list(dict.fromkeys(member.role for member in self.members))

    def rendezvous(self, member: Member, *, network: bool, timeout: float) -> Rendezvous | None:
        """What is looked at before the member's command starts; None for one that is alone."""
        if self.size == 1:
            return None
        return Rendezvous(rank=member.rank, peers=self._peers, nonce=self.nonce, network=network, timeout=timeout)

    @cached_property
    def _peers(self) -> tuple[Peer, ...]:
        return tuple(
            Peer(
                rank=one.rank,
                node=one.place.node,
                address=self.address(one),
                port=self.port_of(one),
                interface=self.interface(one),
            )
            for one in self.members
        )


def role_names(spec: TrainingJobSpec) -> list[str]:
    """The role of each ordinal: roles count in the order of the list."""
    if not spec.roles:
        return [DEFAULT_ROLE] * spec.size
    return [role.name for role in spec.roles for _ in range(role.replicas)]


def role_of(spec: TrainingJobSpec, ordinal: int) -> Role | None:
    """The role of a replica; None in a job without roles."""
    first = 0
    for role in spec.roles:
        first += role.replicas
        if ordinal < first:
            return role
    return None


def lasting(spec: TrainingJobSpec, ordinal: int) -> bool:
    """Whether a replica does not end by itself: the job is done without it, and then it is ended."""
    role = role_of(spec, ordinal)
    if role is None or role.lasting is not None:
        return bool(role and role.lasting)
    return spec.framework is Framework.TENSORFLOW and role.name in _LASTING


def master_port(uid: str, attempt: int) -> int:
    """The same for all ranks of an attempt and most likely free: another attempt gets another port."""
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    return _FIRST_PORT + int.from_bytes(digest[:4], "big") % _PORTS


def _nonce(uid: str, attempt: int) -> str:
    """Not to be guessed by who does not know the uid, which is random; those of its workspace may do as much anyway."""
    return hashlib.sha256(f"gang/{uid}/{attempt}".encode()).hexdigest()
