"""A stand-in for the platform's HTTP API inside a test process: resources in a dictionary, answers by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from modelworks.kernel.errors import NotFound
from modelworks.sdk.client import Client

Document = dict[str, Any]
Answer = Callable[[httpx.Request], httpx.Response]


class StubApi:
    """``routes`` answer first, by ``"METHOD /path"`` below ``/api/v1``; resources of ``store`` come after them."""

    def __init__(self) -> None:
        self.store: dict[tuple[str, str], Document] = {}
        self.routes: dict[str, Any] = {}
        self.requests: list[httpx.Request] = []

    def client(self, workspace: str = "default") -> Client:
        return Client(
            "http://mw.test", "key", workspace=workspace, transport=httpx.MockTransport(self.handle), patience=0
        )

    def add(self, kind: str, name: str, *, spec: Document | None = None, **status: Any) -> Document:
        document = {
            "apiVersion": "modelworks/v1",
            "kind": kind,
            "metadata": {"name": name, "workspace": "default", "uid": f"uid{name}", "generation": 1, "labels": {}},
            "spec": spec or {},
            "status": {"observed_generation": 1, **status},
        }
        self.store[kind, name] = document
        return document

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if request.url.path.startswith("/api/predict/"):
            return httpx.Response(401, json={"detail": "no token", "code": "unauthorized"})
        path = request.url.path.removeprefix("/api/v1")
        answer = self.routes.get(f"{request.method} {path}")
        if callable(answer):
            return answer(request)  # type: ignore[no-any-return]
        if isinstance(answer, httpx.Response):
            return answer
        if answer is not None:
            return httpx.Response(200, json=answer)
        return self._resources(request, path)

    def bodies(self, path: str) -> list[Document]:
        """What was posted to a path."""
        return [json.loads(r.content) for r in self.requests if r.url.path == f"/api/v1{path}" and r.content]

    def _resources(self, request: httpx.Request, path: str) -> httpx.Response:
        parts = path.strip("/").split("/")
        if path == "/apply":
            return httpx.Response(
                200, json={"results": [self._apply(m) for m in json.loads(request.content)["manifests"]]}
            )
        if path == "/watch":
            return httpx.Response(200, content=b"", headers={"content-type": "text/event-stream"})
        if parts[0] == "resources" and len(parts) == 2:
            items = [document for (kind, _), document in self.store.items() if kind == parts[1]]
            return httpx.Response(200, json={"items": items, "next_cursor": None})
        if parts[0] == "resources" and len(parts) == 3:
            found = self.store.get((parts[1], parts[2]))
            if found is not None and request.method == "DELETE":
                del self.store[parts[1], parts[2]]
            if found is not None:
                return httpx.Response(200, json=found)
        error = NotFound(f"there is no {'/'.join(parts[1:]) or path}")
        return httpx.Response(404, json=error.problem())

    def _apply(self, manifest: Document) -> Document:
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        known = self.store.get((kind, name))
        if known is not None and known["spec"] == manifest["spec"]:
            return {"action": "unchanged", "changes": [], "notes": [], "resource": known}
        phase = "Ready" if kind in ("Bucket", "Volume") else ""
        resource = self.add(kind, name, spec=manifest["spec"], phase=phase)
        return {"action": "updated" if known else "created", "changes": [], "notes": [], "resource": resource}
