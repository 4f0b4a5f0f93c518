"""What is said of replicas that cannot reach each other."""

from __future__ import annotations

import errno
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent import reach
from modelworks.agent.reach import Failure, Trouble
from modelworks.kernel.run import Peer, Rendezvous

PEERS = tuple(
    Peer(rank=n, node="abcd"[n], address=f"10.0.0.{n + 1}", port=29_512 + n, interface="eth0") for n in range(4)
)


def meeting(rank: int) -> Rendezvous:
    return Rendezvous(rank=rank, peers=PEERS, nonce="n")


def test_the_pair_the_port_and_the_interface_are_named() -> None:
    said = reach.told(meeting(2), [Failure(PEERS[0], Trouble.SILENT, 9.97)])
    assert said == (
        "rank 2 (node c, 10.0.0.3 on eth0) cannot reach rank 0 (node a) at 10.0.0.1:29512: no answer in 10s; "
        "a firewall may let only some ports through"
    )


@given(st.lists(st.sampled_from(Trouble), min_size=1, max_size=3))
def test_one_sentence_names_every_rank_and_one_cause(troubles: list[Trouble]) -> None:
    said = reach.told(meeting(3), [Failure(PEERS[n], trouble) for n, trouble in enumerate(troubles)])
    assert said.count("cannot reach rank") == 1
    for n in range(len(troubles)):
        assert re.search(rf"ranks? ([0-9, and]*\b)?{n}\b", said)
    assert "\n" not in said


def test_what_is_cut_off_is_said_before_what_may_only_follow_from_it() -> None:
    said = reach.told(meeting(1), [Failure(PEERS[0], Trouble.REFUSED), Failure(PEERS[2], Trouble.SILENT, 10)])
    assert "cannot reach rank 2" in said
    assert said.endswith("; nor can it reach rank 0")


def test_a_refused_peer_that_was_heard_means_a_firewall() -> None:
    assert "though that rank listens there" in reach.told(meeting(1), [Failure(PEERS[0], Trouble.REFUSED, heard=True)])
    assert "has not begun" in reach.told(meeting(1), [Failure(PEERS[0], Trouble.REFUSED)])


@pytest.mark.parametrize(
    ("number", "trouble"),
    [
        (errno.ECONNREFUSED, Trouble.REFUSED),
        (errno.ETIMEDOUT, Trouble.SILENT),
        (errno.EHOSTUNREACH, Trouble.NO_ROUTE),
        (errno.ENETUNREACH, Trouble.NO_ROUTE),
        (errno.EACCES, Trouble.NO_ROUTE),
    ],
)
def test_errors_of_the_system_are_told_apart(number: int, trouble: Trouble) -> None:
    assert reach.trouble_of(OSError(number, "")) is trouble
    assert reach.trouble_of(TimeoutError()) is Trouble.SILENT


def test_many_ranks_are_counted() -> None:
    assert reach.ranks([3]) == "rank 3"
    assert reach.ranks([1, 2]) == "ranks 1 and 2"
    assert reach.ranks(list(range(20))) == "ranks 0, 1, 2, 3, 4, 5, 6, 7 and 12 more"


def test_an_address_with_colons_is_put_in_brackets() -> None:
    assert reach.place(PEERS[0].model_copy(update={"address": "fd00::1"})) == "[fd00::1]:29512"


@given(st.text(), st.sampled_from(["ask", "answer", "go", "taken"]), st.integers(0, 9), st.integers(0, 9))
def test_a_seal_is_of_one_gang_word_and_direction(nonce: str, word: str, asks: int, answers: int) -> None:
    seal = reach.seal(nonce, word, asks, answers)
    assert reach.is_sealed(seal, nonce, word, asks, answers)
    assert not reach.is_sealed(seal, nonce + "x", word, asks, answers)
    assert not reach.is_sealed(seal, nonce, "other", asks, answers)
    assert not reach.is_sealed(seal, nonce, word, asks + 1, answers)
    assert not reach.is_sealed(seal, nonce, word, asks, answers + 1)
    assert not reach.is_sealed(None, nonce, word, asks, answers)
    assert nonce not in seal or len(nonce) < 3
