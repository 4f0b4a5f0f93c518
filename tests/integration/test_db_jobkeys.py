"""The API keys of jobs: the same one after a crash, one a job, for its workspace, and gone with it."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from modelworks.api.auth import Keyring, list_keys, make_key
from modelworks.db import jobkeys
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.secrets import Cipher
from modelworks.db.tables import api_keys
from modelworks.kernel.errors import Unauthorized

CIPHER = Cipher(b"k" * 32)
UID = "abcdef0123456789"


def test_a_job_s_key_is_bound_to_its_workspace_and_ends_with_it(database_url: str) -> None:
    migrate(database_url)
    engine = connect(database_url)
    first, second = (jobkeys.key_text(CIPHER, UID, epoch) for epoch in ("a1", "a2"))
    assert first == jobkeys.key_text(Cipher(b"k" * 32), UID, "a1"), "reproducible after a crash"
    assert (
        len({first, second, jobkeys.key_text(Cipher(b"x" * 32), UID, "a1"), jobkeys.key_text(CIPHER, "u", "a1")}) == 4
    )
    with engine.begin() as connection:
        make_key(connection, f"job-{UID}", None, False)
        for _ in range(2):
            jobkeys.ensure(connection, CIPHER, UID, "a1", "team")
    principal = Keyring(engine).principal(first)
    assert (principal.name, principal.workspace, principal.administrator) == (f"job:{UID}", "team", False)
    with engine.begin() as connection:
        assert f"job:{UID}" in [key.name for key in list_keys(connection)]
        jobkeys.ensure(connection, CIPHER, UID, "a2", "team")
    assert Keyring(engine).principal(second).workspace == "team"
    with pytest.raises(Unauthorized):
        Keyring(engine).principal(first)
    with engine.begin() as connection:
        jobkeys.remove(connection, UID)
        jobkeys.remove(connection, UID)
        left = connection.scalar(select(func.count()).where(api_keys.c.name.in_([f"job:{UID}", f"job-{UID}"])))
    assert left == 1, "another key of a like name is not touched"
    with pytest.raises(Unauthorized):
        Keyring(engine).principal(second)
    engine.dispose()
