"""Store keys of a workload that asks for them: scoped to its prefixes, and renewed in a file while it lives."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from datetime import UTC, datetime

from modelworks.agent.tools import Tools
from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.run import RunSpec
from modelworks.objectstore import sts
from modelworks.objectstore.credentials import Credentials
from modelworks.runtime.launch import CREDENTIALS
from modelworks.runtime.rundir import RunDirectory, write_file
from modelworks.runtime.sandbox import run_uid

DURATION = 12 * 3600.0
_RETRY = 60.0
log = logging.getLogger(__name__)


class RunAccess:
    """The keys of one run. The file is what ``credential_process`` of the AWS SDKs prints."""

    def __init__(self, directory: RunDirectory, spec: RunSpec, tools: Tools) -> None:
        self.directory = directory
        self.spec = spec
        self.tools = tools

    async def grant(self) -> dict[str, str]:
        """Mint keys; the variables of the workload."""
        credentials = await self.tools.work(self._mint)
        return credentials.variables()

    async def renew(self) -> None:
        """Put new keys into the file before the old ones end, for as long as the run lives."""
        while True:
            await asyncio.sleep(max(_RETRY, self._left() / 2))
            try:
                await self.tools.work(self._mint)
            except ModelworksError as error:
                log.warning("run %s: renewing its store keys: %s", self.spec.key, error.detail)

    def _mint(self) -> Credentials:
        name = self.spec.key.replace("/", "-")
        minted = sts.mint(self.tools.credentials(), self.spec.access, DURATION, name)
        document = {
            "Version": 1,
            "AccessKeyId": minted.access_key_id,
            "SecretAccessKey": minted.secret_access_key,
            "SessionToken": minted.session_token,
        }
        if minted.expires_at:
            document["Expiration"] = datetime.fromtimestamp(minted.expires_at, UTC).isoformat()
        folder = self.directory.path / CREDENTIALS
        folder.mkdir(mode=0o755, exist_ok=True)
        file = folder / "credentials.json"
        write_file(file, json.dumps(document).encode(), 0o600)
        uid = run_uid(self.spec.workspace)
        if uid is not None and self.tools.isolation.enabled:
            os.chown(file, uid, uid)
        return minted

    def _left(self) -> float:
        try:
            written = (self.directory.path / CREDENTIALS / "credentials.json").stat().st_mtime
        except FileNotFoundError:
            return 0.0
        return written + DURATION - time.time()
