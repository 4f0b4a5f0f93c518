"""The platform's HTTP API, one method a call. Resources are plain documents, as ``mw get -o yaml`` shows them."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self
from urllib.parse import quote

import httpx

from modelworks.kernel.errors import NotFound
from modelworks.sdk.http import Http, server_events

Document = dict[str, Any]


class Client:
    """``url`` is the gateway's, ``workspace`` what the calls are about unless a document names its own."""

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        workspace: str = "default",
        transport: httpx.BaseTransport | None = None,
        patience: float = 15.0,
    ) -> None:
        self.http = Http(url, api_key, transport=transport, patience=patience)
        self.url = self.http.url
        self.workspace = workspace

    def close(self) -> None:
        self.http.close()

    def within(self, workspace: str) -> Self:
        """The same connection, about another workspace."""
        other = copy.copy(self)
        other.workspace = workspace
        return other

    # resources

    def apply(self, manifests: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> list[Document]:
        """Create or update, all or nothing: ``[{action, changes, notes, resource}]``."""
        body = {"manifests": [dict(m) for m in manifests], "dry_run": dry_run}
        return list(self._call("POST", "/apply", body=body, repeat=True)["results"])

    def resources(self, kind: str, *, labels: Sequence[str] = (), limit: int | None = None) -> Iterator[Document]:
        """Resources of a kind, page by page; ``labels`` are ``key=value``; at most ``limit`` of them."""
        cursor, left = None, limit
        while left is None or left > 0:
            params = {"label": list(labels) or None, "limit": min(left or 500, 500), "cursor": cursor}
            page = self._call("GET", f"/resources/{_part(kind)}", params)
            yield from page["items"]
            left = None if left is None else left - len(page["items"])
            cursor = page.get("next_cursor")
            if not cursor:
                return

    def get(self, kind: str, name: str) -> Document:
        return dict(self._call("GET", f"/resources/{_part(kind)}/{_part(name)}"))

    def find(self, kind: str, name: str) -> Document | None:
        """Like :meth:`get`; None when there is none."""
        try:
            return self.get(kind, name)
        except NotFound:
            return None

    def catalogued(self, kind: str, name: str) -> Document | None:
        """An environment or instance type that is shipped or configured, and so no resource; None for others."""
        listing = {"Environment": self.environments, "InstanceType": self.instance_types}.get(kind)
        return next((item for item in listing() if item.get("name") == name), None) if listing else None

    def delete(self, kind: str, name: str) -> Document:
        """Begin to delete; the answer's ``notes`` say what stays behind."""
        return dict(self._call("DELETE", f"/resources/{_part(kind)}/{_part(name)}") or {})

    def watch(
        self, kind: str | None = None, name: str | None = None, timeout: float | None = None
    ) -> Iterator[tuple[str, Document]]:
        """``("resource", document)`` at every change and ``("deleted", …)``, until ``timeout`` seconds or a cut."""
        params = self._scoped({"kind": kind, "name": name, "timeout": timeout})
        with self.http.stream("/watch", params) as response:
            yield from server_events(response.iter_lines())

    def events(
        self,
        kind: str | None = None,
        name: str | None = None,
        *,
        since: str | None = None,
        limit: int | None = None,
        wait: float | None = None,
    ) -> tuple[list[Document], str]:
        """Events after cursor ``since``, oldest first, and the new cursor; ``wait`` seconds for the first one."""
        params = {"kind": kind, "name": name, "since": since, "limit": limit, "wait": wait}
        answer = self._call("GET", "/events", params)
        return list(answer["items"]), str(answer["cursor"])

    def kinds(self) -> list[Document]:
        return _items(self._call("GET", "/kinds"))

    # the platform

    def status(self) -> Document:
        return dict(self._call("GET", "/status"))

    def whoami(self) -> Document:
        return dict(self._call("GET", "/whoami"))

    def keys(self) -> list[Document]:
        return _items(self._call("GET", "/keys"))

    def create_key(self, name: str, *, read_only: bool = False, workspace: str | None = None) -> Document:
        """A new API key; its text is in this answer and never shown again."""
        body = {"name": name, "read_only": read_only, "workspace": workspace}
        return dict(self._call("POST", "/keys", body={k: v for k, v in body.items() if v is not None}))

    def revoke_key(self, name: str) -> None:
        self._call("DELETE", f"/keys/{_part(name)}")

    def cost(self, *, by: str = "resource", since: str | None = None, until: str | None = None) -> Document:
        return dict(self._call("GET", "/cost", {"by": by, "since": since, "until": until}))

    def nodes(self) -> list[Document]:
        """The machines: state, room, and the replicas on them that this key may see."""
        return _items(self._call("GET", "/nodes"))

    def node(self, name: str) -> Document:
        return dict(self._call("GET", f"/nodes/{_part(name)}"))

    def cordon_node(self, name: str) -> Document:
        return dict(self._call("POST", f"/nodes/{_part(name)}/cordon", repeat=True))

    def uncordon_node(self, name: str) -> Document:
        return dict(self._call("POST", f"/nodes/{_part(name)}/uncordon", repeat=True))

    def drain_node(self, name: str, *, notice: float = 180.0, reason: str = "") -> Document:
        """No new work, and jobs have ``notice`` seconds to save a checkpoint and go on elsewhere."""
        body = {"notice": notice, "reason": reason}
        return dict(self._call("POST", f"/nodes/{_part(name)}/drain", body=body, repeat=True))

    def queue(self, name: str | None = None) -> Document:
        """Who waits for room, in order: ``{items: [{position, name, priority, reason, …}], length}``."""
        return dict(self._call("GET", "/queue", {"name": name} if name else None))

    def quotas(self) -> Document:
        """The workspace's quotas with what is used of them."""
        return dict(self._call("GET", "/quotas"))

    def instance_types(self) -> list[Document]:
        return _items(self._call("GET", "/instance-types"))

    def environments(self) -> list[Document]:
        return _items(self._call("GET", "/environments"))

    def storage_credentials(
        self, *, read: Sequence[str] = (), write: Sequence[str] = (), duration: float = 3600
    ) -> Document:
        """Keys of the object store that open these ``s3://bucket/prefix`` only."""
        body = {"read": list(read), "write": list(write), "duration": duration}
        return dict(self._call("POST", "/storage/credentials", body=body, repeat=True))

    # jobs

    def validate_job(self, manifest: Mapping[str, Any]) -> Document:
        return dict(self._call("POST", "/jobs/validate", body=dict(manifest), repeat=True))

    def job_log(
        self,
        name: str,
        *,
        follow: bool = False,
        offset: int = 0,
        attempt: int | None = None,
        replica: int | None = None,
    ) -> Iterator[bytes]:
        """The log from byte ``offset``; with ``follow`` until the job ends, resumed after every cut.

        It is the log of ``attempt``, or of all of them, one after the other.
        """
        params = {"follow": follow, "attempt": attempt, "replica": replica}
        return self._log(f"/jobs/{_part(name)}/log", params, offset)

    def job_lines(self, name: str, *, replica: int | None = None, **wanted: Any) -> Iterator[bytes]:
        """Lines of the log of a replica, or of all (None), each after its ``[rank]``, in the order in which they came.

        ``wanted``: ``follow``, ``attempt``, ``grep`` (only lines with this text), ``ignore_case``, ``since`` (only
        those that came then or later, in Unix seconds). After a cut it goes on behind what it has; of lines that came
        at the same moment, some may then be told twice or not at all.
        """
        which = {"all": True} if replica is None else {"replica": replica, "since": 0.0}
        given = {key: value for key, value in wanted.items() if value is not None}
        return self._log(f"/jobs/{_part(name)}/log", {**which, **given}, 0)

    def job_metrics(self, name: str, *, replica: int | None = None, attempt: int | None = None) -> Document:
        """``{replica, attempt, items: [{at, cpu, memory, …}]}``; by default of the latest attempt's first replica."""
        given = {"replica": replica, "attempt": attempt}
        query = {key: value for key, value in given.items() if value is not None}
        return dict(self._call("GET", f"/jobs/{_part(name)}/metrics", query))

    def job_reports(
        self, name: str, *, replica: int | None = None, names: Iterable[str] = (), points: int | None = None
    ) -> list[Document]:
        """What the job reported by step: ``{name, count, last, least, greatest, points: [{step, value, at}]}`` each."""
        given = {"replica": replica, "name": list(names) or None, "points": points}
        query = {key: value for key, value in given.items() if value is not None}
        return _items(self._call("GET", f"/jobs/{_part(name)}/reports", query))

    def job_stacks(self, name: str, *, replica: int | None = None) -> Document:
        """What each replica does now: ``{live, items: [{replica, attempt, node, at, stacks}]}``."""
        query = {} if replica is None else {"replica": replica}
        return dict(self._call("GET", f"/jobs/{_part(name)}/stacks", query))

    def cancel_job(self, name: str) -> Document:
        return dict(self._call("POST", f"/jobs/{_part(name)}/cancel", repeat=True) or {})

    def preempt_job(self, name: str, notice: str | float | None = None) -> Document:
        """The attempt ends within ``notice`` (default: the job's own), and another goes on from its checkpoint."""
        body = {} if notice is None else {"notice": notice}
        return dict(self._call("POST", f"/jobs/{_part(name)}/preempt", body=body) or {})

    # sweeps

    def sweep_trials(self, name: str) -> Document:
        """``{metric, goal, items: [{number, job, state, parameters, value, step, reason, …}]}``."""
        return dict(self._call("GET", f"/sweeps/{_part(name)}/trials"))

    def sweep_plot(self, name: str) -> Document:
        """``{metric, goal, parameters, history, curves, coordinates}``."""
        return dict(self._call("GET", f"/sweeps/{_part(name)}/plot"))

    def sweep_importances(self, name: str) -> Document:
        """``{importances: {parameter: share}, complete, needed}``; none while fewer are complete than needed."""
        return dict(self._call("GET", f"/sweeps/{_part(name)}/importances"))

    def stop_sweep(self, name: str) -> Document:
        return dict(self._call("POST", f"/sweeps/{_part(name)}/stop", repeat=True) or {})

    # services

    def service_token(self, name: str) -> str:
        return str(self._call("GET", f"/services/{_part(name)}/token")["token"])

    def rotate_token(self, name: str) -> str:
        return str(self._call("POST", f"/services/{_part(name)}/token/rotate")["token"])

    def start_service(self, name: str) -> Document:
        return dict(self._call("POST", f"/services/{_part(name)}/start", repeat=True) or {})

    def stop_service(self, name: str) -> Document:
        return dict(self._call("POST", f"/services/{_part(name)}/stop", repeat=True) or {})

    def explain_service(self, name: str) -> Document:
        """What its number of replicas follows from, its queue, and the last decisions of the autoscaler."""
        return dict(self._call("GET", f"/services/{_part(name)}/explain"))

    def service_revisions(self, name: str) -> list[Document]:
        """The newest first, at most 200."""
        return _items(self._call("GET", f"/services/{_part(name)}/revisions"))

    def change_canary(self, name: str, **fields: Any) -> Document:
        """``fields`` of ``spec.canary``. Weight 100 makes it the service's own; weight 0 alone ends it."""
        given = {key: value for key, value in fields.items() if value is not None}
        return dict(self._call("POST", f"/services/{_part(name)}/canary", body=given))

    def roll_back_service(self, name: str, to: str | int | None = None) -> Document:
        """To the revision, or its number; without one, to the one that was asked for before."""
        body = {} if to is None else {"to": str(to)}
        return dict(self._call("POST", f"/services/{_part(name)}/rollback", body=body))

    def resume_service(self, name: str) -> Document:
        return dict(self._call("POST", f"/services/{_part(name)}/resume"))

    def service_log(
        self, name: str, *, replica: int | None = None, follow: bool = False, offset: int = 0, previous: bool = False
    ) -> Iterator[bytes]:
        """``previous``: of the replica's run that ended last, though another one runs."""
        asked = {"replica": replica, "follow": follow, "previous": previous or None}
        return self._log(f"/services/{_part(name)}/log", asked, offset)

    def service_usage(self, name: str) -> list[Document]:
        """``[{key, revision, ready, memory_limit, items: [{at, cpu, memory, …}]}]``, of every replica that runs."""
        return _items(self._call("GET", f"/services/{_part(name)}/usage"))

    def service_endpoint(self, name: str) -> str:
        """``http://<gateway>/api/predict/<service>``; ``<workspace>.<service>`` outside the workspace ``default``."""
        path = name if self.workspace == "default" else f"{self.workspace}.{name}"
        return f"{self.url}/api/predict/{quote(path)}"

    def service_answers(self, name: str, token: str, revision: str = "") -> bool:
        """Whether the gateway takes the token and passes a request on to a replica, whatever that makes of it.

        With ``revision`` it must be one of that revision.
        """
        headers = self.http.knock(self.service_endpoint(name), token).headers
        return "x-mw-replica" in headers and revision in ("", headers.get("x-mw-revision"))

    def tasks_accepted(self, name: str, token: str) -> bool:
        """Whether the gateway takes the token of an asynchronous service, and the courier knows it."""
        return self.http.knock(self.service_endpoint(name), token).status_code == 200

    def service_tasks(
        self, name: str, *, state: str | None = None, limit: int = 100, cursor: str | None = None
    ) -> Document:
        """``{counts, items, next_cursor}``: the newest tasks first, of one state (pending, running, done) or of all."""
        params = {"state": state, "limit": limit, "cursor": cursor}
        return dict(self._call("GET", f"/services/{_part(name)}/tasks", params))

    def token_accepted(self, name: str, token: str) -> bool:
        """Whether the gateway takes the token, also of a service that is stopped."""
        answer = self.http.knock(self.service_endpoint(name), token)
        return answer.status_code != 401 or "x-mw-replica" in answer.headers

    # models

    def model_versions(self, name: str) -> list[Document]:
        """The newest first, at most 1000."""
        return _items(self._call("GET", f"/models/{_part(name)}/versions", {"limit": 1000}))

    def model_version(self, name: str, version: int | str) -> Document:
        return dict(self._call("GET", f"/models/{_part(name)}/versions/{_part(str(version))}"))

    def register_version(
        self,
        name: str,
        *,
        uri: str | None = None,
        job: str | None = None,
        metrics: Mapping[str, Any] | None = None,
        description: str | None = None,
    ) -> Document:
        """A new immutable version out of a folder or a job's output; the model is made when it is not there."""
        body = {"uri": uri, "job": job, "metrics": dict(metrics) if metrics else None, "description": description}
        present = {key: value for key, value in body.items() if value is not None}
        return dict(self._call("POST", f"/models/{_part(name)}/versions", body=present, timeout=300))

    def set_alias(self, name: str, alias: str, version: int) -> Document:
        path = f"/models/{_part(name)}/aliases/{_part(alias)}"
        return dict(self._call("PUT", path, body={"version": version}) or {})

    def delete_alias(self, name: str, alias: str) -> None:
        self._call("DELETE", f"/models/{_part(name)}/aliases/{_part(alias)}")

    def _call(self, method: str, path: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        return self.http.request(method, path, params=self._scoped(params), **options)

    def _scoped(self, params: Mapping[str, Any] | None) -> dict[str, Any]:
        return {"workspace": self.workspace, **(params or {})}

    def _log(self, path: str, params: Mapping[str, Any], offset: int) -> Iterator[bytes]:
        position = offset

        def once() -> Iterator[bytes]:
            nonlocal position
            with self.http.stream(path, self._scoped({**params, "offset": position})) as response:
                yield b""  # a log may be silent for longer than anybody waits for a byte
                for chunk in response.iter_bytes():
                    position += len(chunk)
                    yield chunk

        yield from self.http.resumed(once)


def _part(text: str) -> str:
    return quote(text, safe="")


def _items(answer: Any) -> list[Document]:
    return list(answer["items"] if isinstance(answer, dict) else answer or ())
