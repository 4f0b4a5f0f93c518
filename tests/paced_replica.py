"""A replica of a known capacity, as a process: one request at a time, each taking so long. ``… <socket> <seconds>``."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


async def serve(path: str, seconds: float) -> None:
    turn = asyncio.Lock()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (
                        int(line.partition(b":")[2])
                        for line in head.lower().split(b"\r\n")
                        if line[:15] == b"content-length:"
                    ),
                    0,
                )
                await reader.readexactly(length)
                async with turn:
                    await asyncio.sleep(seconds)
                writer.write(ANSWER)
                await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(answer, path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await server.serve_forever()


@contextmanager
def paced(path: Path, seconds: float) -> Iterator[int]:
    """Such a replica at ``path`` for as long as the block lasts; its process id."""
    command = [sys.executable, "-m", "tests.paced_replica", str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            yield child.pid
        finally:
            child.kill()
            child.wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], float(sys.argv[2])))
