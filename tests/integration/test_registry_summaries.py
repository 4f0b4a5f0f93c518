"""What a pass over many models reads of their versions: of all in one query, and only what is each one's own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, insert

from modelworks.control.fleet import Fleet
from modelworks.control.world import FleetWorld
from modelworks.db import resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.tables import model_versions
from modelworks.home import Home
from modelworks.kernel.resource import Ref, Resource
from modelworks.products.registry import queries
from modelworks.products.registry.observe import ModelObserved, observe
from modelworks.settings import Settings


def version(model: Resource, number: int, **other: Any) -> dict[str, Any]:
    row = {"workspace": model.ref.workspace, "model": model.ref.name, "version": number, "uri": "s3://b/m/"}
    own = {"digest": "sha256:0", "size": 10, "files": [], "created_at": model.created_at, "retired_at": None}
    return row | own | other


def test_versions_of_all_models_are_read_once(database_url: str, home: Home) -> None:
    migrate(database_url)
    engine = connect(database_url)
    with engine.begin() as connection:
        made = [
            resources.insert_new(connection, Ref(workspace, kind, name), {}, {}, {})
            for workspace, kind, name in (
                ("default", "Model", "two"),
                ("default", "Model", "none"),
                ("other", "Model", "two"),
                ("default", "Bucket", "two"),
            )
        ]
        models = [one for one in made if one is not None]
        two, none, other, bucket = models
        before = two.created_at - timedelta(days=1)
        rows = [
            version(two, 1, created_at=before),  # of a model of this name that was deleted
            version(two, 2),
            version(two, 3, size=5),
            version(two, 4, retired_at=two.created_at),
            version(other, 1, size=7),
        ]
        connection.execute(insert(model_versions), rows)
    asked = 0

    def counted(connection: Connection, batch: Any) -> Any:
        nonlocal asked
        asked += 1
        return queries.summaries(connection, batch)

    with engine.connect() as connection:
        world = FleetWorld(connection, Settings.load(home), Fleet(), {}, models)
        assert [observe(model, world) for model in (two, none, other)] == [
            ModelObserved(2, 3, 15),
            ModelObserved(0, None, 0),
            ModelObserved(1, 1, 7),
        ]
        assert bucket.uid not in world.shared(counted)
        assert world.shared(counted)[two.uid] == (2, 3, 15)
        assert asked == 1
    engine.dispose()
