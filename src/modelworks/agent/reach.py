"""What is said of a gang whose replicas cannot all reach each other: which pair, which port, and why. Pure."""

from __future__ import annotations

import errno
import hashlib
import hmac
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import Peer, Rendezvous

_NAMED = 8  # ranks that one sentence names


class Trouble(StrEnum):
    """How a try to reach a peer ended."""

    SILENT = "silent"  # no answer to the connection: packets are dropped, or the machine is gone
    REFUSED = "refused"  # the machine says that nobody listens, or a firewall says so for it
    NO_ROUTE = "no route"  # the network knows no way
    MUTE = "mute"  # something accepts and says nothing
    STRANGER = "stranger"  # something answers, and is no replica of this gang


@dataclass(frozen=True)
class Failure:
    """``peer`` was not reached: ``seconds`` is how long the last try took, ``detail`` the system's own word.

    ``heard``: the peer itself has reached us meanwhile, so it is there and listens.
    """

    peer: Peer
    trouble: Trouble
    seconds: float = 0.0
    detail: str = ""
    heard: bool = False


def trouble_of(error: OSError) -> Trouble:
    """What a failed connection means."""
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return Trouble.REFUSED
    if error.errno == errno.ETIMEDOUT or isinstance(error, TimeoutError):
        return Trouble.SILENT
    return Trouble.NO_ROUTE


def place(peer: Peer) -> str:
    """``10.0.0.1:29512``, ``[fd00::1]:29512``."""
    return f"[{peer.address}]:{peer.port}" if ":" in peer.address else f"{peer.address}:{peer.port}"


def own_name(peer: Peer) -> str:
    where = f"{peer.address} on {peer.interface}" if peer.interface else peer.address
    return f"rank {peer.rank} (node {peer.node}, {where})"


def told(rendezvous: Rendezvous, failures: Sequence[Failure]) -> str:
    """One sentence of the worst: the first pair in full, then whom else this rank cannot reach."""
    own = own_name(rendezvous.peers[rendezvous.rank])
    ordered = sorted(failures, key=lambda failure: (_WORST.index(failure.trouble), failure.peer.rank))
    first = ordered[0]
    text = f"{own} cannot reach rank {first.peer.rank} (node {first.peer.node}) at {place(first.peer)}: {_why(first)}"
    others = sorted(failure.peer.rank for failure in ordered[1:])
    return f"{text}; nor can it reach {ranks(others)}" if others else text


# What says most comes first: a peer that is refused may only follow from one that is cut off, and has given up.
_WORST = (Trouble.MUTE, Trouble.STRANGER, Trouble.SILENT, Trouble.NO_ROUTE, Trouble.REFUSED)


def _why(failure: Failure) -> str:
    match failure.trouble:
        case Trouble.SILENT:
            after = format_duration(max(1, round(failure.seconds)))
            return f"no answer in {after}; a firewall may let only some ports through"
        case Trouble.REFUSED if failure.heard:
            return "connection refused, though that rank listens there; a firewall rejects what is sent to this port"
        case Trouble.REFUSED:
            return "connection refused; that rank has not begun, or a firewall rejects what is sent to this port"
        case Trouble.NO_ROUTE:
            return f"{failure.detail or 'no route to host'}; the nodes are not in one network, or have a wrong address"
        case Trouble.MUTE:
            return "another program has this port: it accepts connections, and says nothing"
        case Trouble.STRANGER:
            return "another program has this port: what it answers is not a replica of this job"


def port_taken(peer: Peer, program: str) -> str:
    by = program or "another program"
    return f"{own_name(peer)}: its port {peer.port} is taken by {by}; end that program, or wait until it is done"


def waiting(rendezvous: Rendezvous, missing: Sequence[int]) -> str:
    """What a replica that is ready says while others are not."""
    named = [peer for peer in rendezvous.peers if peer.rank in missing]
    if len(named) == 1:
        return f"ready; waits for rank {named[0].rank} (node {named[0].node})"
    return f"ready; waits for {ranks(sorted(missing))}"


def ranks(numbers: Sequence[int]) -> str:
    """``rank 3``, ``ranks 1 and 2``, ``ranks 1, 2, … and 90 more``."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > _NAMED:
        return f"ranks {', '.join(map(str, numbers[:_NAMED]))} and {len(numbers) - _NAMED} more"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"


def seal(nonce: str, word: str, asks: int, answers: int) -> str:
    """Shows that who says ``word`` knows the gang's nonce, without telling it to whoever listens there."""
    return hmac.new(nonce.encode(), f"{word} {asks} {answers}".encode(), hashlib.sha256).hexdigest()


def is_sealed(given: object, nonce: str, word: str, asks: int, answers: int) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), seal(nonce, word, asks, answers).encode())


def system_word(error: OSError) -> str:
    return (os.strerror(error.errno) if error.errno else str(error)).lower()


def worst(failures: Mapping[int, Failure], heard: frozenset[int]) -> list[Failure]:
    """The failures with what was heard since."""
    return [
        Failure(failure.peer, failure.trouble, failure.seconds, failure.detail, rank in heard)
        for rank, failure in sorted(failures.items())
    ]
