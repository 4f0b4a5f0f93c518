"""Small images for tests, made of the machine's busybox: nothing is fetched."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import pytest

from modelworks.runtime.container import Engine, find_engine

SERVER = "localhost/modelworks-test-http"
_APPLETS = ("sh", "httpd", "cat", "echo", "sleep", "id", "env", "dd", "tail", "ls", "touch", "kill", "setsid")
_CGI = r"""#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
echo "greeting=$GREETING port=$PORT path=$PATH version=$VERSION"; id -u; cat /mnt/model/* 2>/dev/null
"""
# It drains: what it said last is in the log.
_MAIN = """#!/bin/sh
trap 'echo drained; kill $server; exit 0' TERM
httpd -f -p "127.0.0.1:$PORT" -h /www & server=$!
echo "serving as $(id -u) with $# arguments: $*"
wait $server
"""


def engine() -> Engine:
    """The machine's container engine; the test is skipped where there is none."""
    found = find_engine()
    if found is None:
        pytest.skip("needs podman or docker")
    return found


def server(engine: Engine, version: int = 1) -> str:
    """An image whose server listens on $PORT and answers /health and /cgi-bin/who; made once a machine.

    Its entry point takes arguments, and says ``version``, with which its tag begins.
    """
    made_of = hashlib.sha256(f"{_APPLETS}{_CGI}{_MAIN}".encode()).hexdigest()[:8]
    reference = f"{SERVER}:{version}-{made_of}"
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs busybox (busybox-static)")
    if engine.call("image", "inspect", reference).returncode == 0:
        return reference
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        for name in ("bin", "www/cgi-bin", "tmp", "etc", "proc", "sys", "dev", "mnt"):
            (root / name).mkdir(parents=True)
        shutil.copy(os.path.realpath(busybox), root / "bin" / "busybox")
        for applet in _APPLETS:
            (root / "bin" / applet).symlink_to("busybox")
        (root / "www" / "health").write_text("ok\n")
        for path, text in ((root / "www/cgi-bin/who", _CGI), (root / "bin" / "serve", _MAIN)):
            path.write_text(text)
            path.chmod(0o755)
        archive = Path(folder) / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(root, arcname=".")
        changes = ("--change", 'ENTRYPOINT ["/bin/serve"]', "--change", f"ENV VERSION={version}")
        made = engine.call("import", *changes, str(archive), reference)
        assert made.returncode == 0, made.stderr
    return reference
