"""Signed requests, from the cloud's own client too, and what a signature must not let pass."""

from __future__ import annotations

import asyncio
import base64
import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest
from tests.eas_signing import signed
from tests.gateway_lab import AUTH, TOKEN, Lab, header
from tests.integration.test_gateway_proxy import run

from modelworks.cipher import Cipher, labelled
from modelworks.gateway.signature import SKEW, Signatures

CIPHER = Cipher(b"k" * 32)
UID = "uid-digits"
OLD = "the-old-token"


def sealed(text: str, name: str = "token", uid: str = UID) -> str:
    return base64.b64encode(labelled(name, CIPHER.seal(text, uid, name))).decode()


async def opened(lab: Lab, **changes: object) -> None:
    lab.gateway.signatures = Signatures(lambda: CIPHER)
    lab.route(await lab.replica(), token_sealed=[sealed(TOKEN), sealed(OLD, "until-4000000000")], **changes)


def lines(headers: dict[str, str]) -> str:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items())


@pytest.mark.parametrize("token", [TOKEN, OLD])
def test_a_signed_request_passes_without_its_signature(tmp_path: Path, token: str) -> None:
    async def body(lab: Lab) -> None:
        await opened(lab)
        client = await lab.client()
        for i in range(3):
            data = b"body %d" % i
            assert (await client.post(data, extra=lines(signed(token, data, at=time.time()))))[0] == 200
        large = b"y" * 400_000
        assert (await client.post(large, extra=lines(signed(token, large, at=time.time()))))[2] == large
        path = "/api/predict/digits/v1/x?a=b"
        for resource in (path, path.partition("?")[0]):
            extra = lines(signed(token, b"", at=time.time(), path=resource))
            assert (await client.post(b"", path, extra))[0] == 200
        replica = lab._replicas[0]
        assert len(replica.heads) == 6
        assert not any(b"EAS" in head for head in replica.heads)
        assert header(replica.heads[0], "content-md5")

    run(tmp_path, body)


def test_what_was_not_signed_is_refused(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        await opened(lab)
        now = time.time()
        good = signed(TOKEN, b"x", at=now)
        wrong: list[dict[str, str]] = [
            signed("another", b"x", at=now),
            signed(TOKEN, b"x", at=now, path="/api/predict/other"),
            signed(TOKEN, b"x", at=now, method="GET"),
            signed(TOKEN, b"x", at=now - SKEW - 60 * 60 * 24),
            signed(TOKEN, b"x", at=now + SKEW + 60 * 60 * 24),
            good | {"Content-Type": "text/plain"},
            good | {"Date": "yesterday"},
            good | {"Content-MD5": "zz"},
            good | {"Authorization": "EAS "},
            good | {"Authorization": "EAS é"},
            {name: value for name, value in good.items() if name != "Date"},
            {name: value for name, value in good.items() if name != "Content-MD5"},
            good | {"date": good["Date"]},
        ]
        for headers in wrong:
            client = await lab.client()
            status, _, text = await client.post(b"x", extra=lines(headers))
            assert (status, b"unauthorized" in text) == (401, True), headers
        assert lab._replicas[0].heads == []

    run(tmp_path, body)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("pipelined", [False, True])
def test_another_body_than_the_signed_one_never_reaches_the_replica(
    tmp_path: Path, chunked: bool, pipelined: bool
) -> None:
    async def body(lab: Lab) -> None:
        await opened(lab)
        client = await lab.client()
        extra = lines(signed(TOKEN, b"what was signed", at=time.time()))
        head = f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{extra}"
        data = head + (
            "Transfer-Encoding: chunked\r\n\r\n4\r\nwhat\r\n0\r\n\r\n" if chunked else "Content-Length: 4\r\n\r\nwhat"
        )
        before = f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}Content-Length: 5\r\n\r\nfirst"
        await client.send(before + data if pipelined else data)
        if pipelined:
            assert (await client.answer())[2] == b"first"
        status, _, text = await client.answer()
        assert (status, b"Content-MD5" in text) == (400, True)
        await client.closed()
        if not pipelined:  # else its connection is the first one's, and is kept
            await lab._replicas[0].until(lambda: lab._replicas[0].closed == lab._replicas[0].connections)
        assert lab._replicas[0].bodies == ([b"first"] if pipelined else [])

    run(tmp_path, body)


def test_without_the_master_key_no_signature_is_right(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        for signatures in (Signatures(), Signatures(lambda: Cipher(b"x" * 32))):
            await opened(lab)
            lab.gateway.signatures = signatures
            extra = lines(signed(TOKEN, b"x", at=time.time()))
            assert (await (await lab.client()).post(b"x", extra=extra))[0] == 401

    run(tmp_path, body)


def test_a_client_that_writes_its_local_time_and_calls_it_gmt_is_understood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(lab: Lab) -> None:
        await opened(lab)
        for hours, status in ((8, 200), (0, 200), (5, 401)):
            extra = lines(signed(TOKEN, b"x", at=time.time() + hours * 3600))
            assert (await (await lab.client()).post(b"x", extra=extra))[0] == status

    monkeypatch.setenv("TZ", "CST-8")
    time.tzset()
    try:
        run(tmp_path, body)
    finally:
        monkeypatch.undo()
        time.tzset()


CLIENT = """
import sys
from eas_prediction import PredictClient, StringRequest
client = PredictClient(sys.argv[1], "digits")
client.set_token(sys.argv[2])
client.init()
for i in range(3):
    print(client.predict(StringRequest("hello-%d" % i)).to_string())
"""


@pytest.mark.skipif(importlib.util.find_spec("eas_prediction") is None, reason="eas-prediction is not installed")
def test_the_unmodified_client_is_served(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        await opened(lab)
        # The generated code in the package is of protobuf 3; newer ones read it with their Python implementation.
        env = {**os.environ, "PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION": "python"}
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", CLIENT, f"127.0.0.1:{lab.port}", TOKEN,
            env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await child.communicate()
        assert [line.strip("b'") for line in out.decode().split()] == ["hello-0", "hello-1", "hello-2"], err.decode()
        assert b"EAS" not in lab._replicas[0].heads[0]

    run(tmp_path, body)
