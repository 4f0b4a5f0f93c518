"""What a pass over many services reads of the database: routes, tokens and revisions of all in one query each."""

from __future__ import annotations

import base64
from typing import Any

from sqlalchemy import Connection, event

from modelworks.cipher import Cipher, open_labelled
from modelworks.control.fleet import Fleet
from modelworks.control.world import FleetWorld
from modelworks.db import resources, revisions, routes, secrets
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.home import Home
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.serving.observe import observe
from modelworks.products.serving.queries import TOKEN
from modelworks.settings import Settings


def made(connection: Connection, kind: str, workspace: str, name: str) -> Resource:
    found = resources.insert_new(connection, Ref(workspace, kind, name), {}, {}, {})
    assert found is not None
    return found


def test_a_pass_over_many_services_asks_for_each_thing_once(database_url: str, home: Home) -> None:
    migrate(database_url)
    engine, cipher = connect(database_url), Cipher.load(home.secrets / "master.key")
    with engine.begin() as connection:
        services = [
            made(connection, "Service", workspace, name)
            for workspace, name in (
                ("default", "a"),
                ("other", "a"),
                ("default", "b"),
                ("other", "b"),
                ("default", "c"),
            )
        ]
        model = made(connection, "Model", "default", "a")
        first, second, third, stale, new = services
        for service in (first, second, third):
            routes.publish(connection, service.ref.workspace, service.ref.name, service.uid, {"uid": service.uid})
            secrets.put(connection, cipher, service.uid, TOKEN, f"token of {service.uid}")
            revisions.record(connection, service.uid, "r1", {}, {})
        # Of a service with that name which was deleted.
        routes.publish(connection, "other", "b", "another", {"uid": "another"})
        secrets.put(connection, cipher, second.uid, "until-1700000000", "an old one")
        secrets.put(connection, cipher, second.uid, "something-else", "no token")

    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *of: asked.append(str(of[2])))
    with engine.connect() as connection:
        world = FleetWorld(connection, Settings.load(home), Fleet(expected=0), {}, [*services, model])
        found: dict[str, Any] = {service.uid: observe(service, world) for service in services}
    assert len(asked) == 3, asked
    engine.dispose()

    assert [found[one.uid].route for one in (first, second, third)] == [{"uid": o.uid} for o in (first, second, third)]
    assert [found[one.uid].recorded for one in services] == [{"r1": 1}] * 3 + [{}] * 2
    for one in (stale, new):
        assert (found[one.uid].route, found[one.uid].tokens) == (None, {})
    tokens = found[second.uid].tokens
    assert tokens.keys() == {secrets.digest(f"token of {second.uid}"), secrets.digest("an old one")}
    assert tokens[secrets.digest("an old one")].until == 1_700_000_000
    known = tokens[secrets.digest(f"token of {second.uid}")]
    sealed = base64.b64decode(known.sealed)
    assert (known.until, open_labelled(cipher, sealed, second.uid)) == (None, f"token of {second.uid}")
