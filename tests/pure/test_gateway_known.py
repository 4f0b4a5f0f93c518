"""Messages that are told from their head alone."""

from __future__ import annotations

import pytest

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownAnswer, Memory, WholeAnswer, plain_request, whole

HEAD = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: %s\r\nX: y\r\n\r\n"


def test_the_digits_of_the_length_are_no_part_of_the_key() -> None:
    one, other = whole(HEAD % b"1" + b"x"), whole(HEAD % b"12" + b"x" * 12)
    assert one is not None
    assert other is not None
    assert one[0] == other[0] == b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: \r\nX: y"
    assert (one[1], other[1]) == (1, 12)
    assert (HEAD % b"1" + b"x")[one[2] :] == b"x"


def test_a_message_without_a_length_ends_with_its_head() -> None:
    head = b"GET /p HTTP/1.1\r\nHost: h\r\n\r\n"
    assert whole(head) == (head[:-4], None, len(head))
    assert whole(head + b"x") is None


@pytest.mark.parametrize(
    "data",
    [
        b"POST /p HTTP/1.1\r\nHost: h\r\n",
        HEAD % b"2" + b"x",
        HEAD % b"1" + b"xx",
        HEAD % b"" + b"",
        HEAD % b"+1" + b"x",
        HEAD % b" 1" + b"x",
        HEAD % b"1 " + b"x",
        HEAD % b"1,1" + b"x",
        HEAD % b"0000000001" + b"x",
        HEAD % "١".encode() + b"x",
        HEAD % b"1" + b"x" * 2 + b"\r\n\r\n",
        b"POST /p HTTP/1.1\r\nX: " + b"y" * 5000 + b"\r\nContent-Length: 1\r\n\r\nx",
    ],
)
def test_whatever_is_not_one_whole_message_is_left_to_the_parser(data: bytes) -> None:
    assert whole(data) is None


def test_only_plain_requests_are_remembered() -> None:
    def head(method: bytes = b"POST", **changes: object) -> RequestHead:
        one = RequestHead(method, b"/", True)
        for name, value in changes.items():
            setattr(one, name, value)
        return one

    assert plain_request(head())
    assert not plain_request(head(b"HEAD"))
    for changes in ({"http11": False}, {"keep_alive": False}, {"chunked": True}, {"expects": True}, {"upgrade": b"x"}):
        assert not plain_request(head(**changes))


ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nA: b\r\n\r\n%s"


def memory_of(*answers: bytes) -> Memory[WholeAnswer]:
    memory: Memory[WholeAnswer] = Memory()
    for data in answers:
        message = whole(data)
        assert message is not None
        memory.learn(message[0], KnownAnswer(200, b"HTTP/1.1 200 OK\r\nA: b\r\n", b"Ours: c\r\n"))
    return memory


@pytest.mark.parametrize("times", [1, 2])
def test_a_known_head_is_found_with_any_length_and_only_in_a_whole_message(times: int) -> None:
    memory = memory_of(ANSWER % (2, b"ok"))
    for _ in range(times):
        for body in (b"", b"x", b"other", b"y" * 5000):
            data = ANSWER % (len(body), body)
            found = memory.find(data)
            assert found is not None
            assert found.out == b"HTTP/1.1 200 OK\r\nA: b\r\nOurs: c\r\nContent-Length: %d\r\n\r\n" % len(body)
            assert (data[found.body :], found.length, found.size) == (body, len(body), len(data))
            for other in (data + b"x", data[:-1], b"x" + data, data.replace(b"A: b", b"A: c")):
                assert memory.find(other) is None


def test_a_memory_is_bounded_by_heads_and_by_lengths() -> None:
    memory: Memory[WholeAnswer] = Memory()
    for i in range(100):
        data = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nA: %d\r\n\r\nx" % i
        message = whole(data)
        assert message is not None
        memory.learn(message[0], KnownAnswer(200, b"", b""))
        assert memory.find(data) is not None
        for size in range(30):
            assert memory.find(data.replace(b"Length: 1", b"Length: %d" % size)[:-1] + b"x" * size) is not None
        assert len(memory) <= 32
    assert memory.find(data.replace(b"A: 99", b"A: 0")) is None
