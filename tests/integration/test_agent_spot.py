"""A cloud's notice, as its metadata service gives it, becomes the node's."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.agents import poll

from modelworks.agent.inprocess import InProcessAgent
from modelworks.agent.spotnotice import READERS, Metadata, SpotNotice, cloud_of
from modelworks.home import Home

END = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


class Service:
    """A metadata service: ``answers`` by path; requests without the headers of ``needs`` are refused."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.needs: dict[str, str] = {}
        self.token: str | None = None
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(service.answers.get(self.path), service.needs)

            def do_PUT(self) -> None:
                self._answer(service.token, {})

            def _answer(self, text: str | None, needs: dict[str, str]) -> None:
                allowed = all(self.headers.get(name) == value for name, value in needs.items())
                data = (text or "").encode()
                self.send_response(401 if not allowed else 404 if text is None else 200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def read(self, cloud: str, now: float = 0.0) -> SpotNotice | None:
        return READERS[cloud][0](Metadata(self.url), now)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service() -> Iterator[Service]:
    one = Service()
    yield one
    one.close()


def test_ec2(service: Service) -> None:
    service.token = "secret"
    service.needs = {"X-aws-ec2-metadata-token": "secret"}
    assert service.read("aws") is None
    action = {"action": "terminate", "time": "2030-01-02T03:04:05Z"}
    service.answers["/latest/meta-data/spot/instance-action"] = json.dumps(action)
    assert service.read("aws") == SpotNotice(END.timestamp(), "EC2 will terminate the spot instance")


def test_compute_engine(service: Service) -> None:
    service.needs = {"Metadata-Flavor": "Google"}
    service.answers["/computeMetadata/v1/instance/preempted"] = "FALSE"
    assert service.read("gcp") is None
    service.answers["/computeMetadata/v1/instance/preempted"] = "TRUE"
    assert service.read("gcp", 100.0) == SpotNotice(130.0, "Compute Engine preempts the instance")


def test_azure(service: Service) -> None:
    service.needs = {"Metadata": "true"}
    service.answers["/metadata/instance/compute/name?api-version=2021-02-01&format=text"] = "vm_1"
    event = {"EventType": "Reboot", "Resources": ["vm_1"], "NotBefore": format_datetime(END, usegmt=True)}
    other = event | {"EventType": "Preempt", "Resources": ["vm_0"]}
    path = "/metadata/scheduledevents?api-version=2020-07-01"
    service.answers[path] = json.dumps({"DocumentIncarnation": 1, "Events": [event, other]})
    assert service.read("azure") is None
    service.answers[path] = json.dumps({"Events": [event, other, event | {"EventType": "Preempt"}]})
    assert service.read("azure") == SpotNotice(END.timestamp(), "Azure: Preempt of the virtual machine")
    service.answers[path] = json.dumps({"Events": [event | {"EventType": "Preempt", "NotBefore": ""}]})
    assert service.read("azure", 7.0) == SpotNotice(7.0, "Azure: Preempt of the virtual machine")


@pytest.mark.parametrize("token", [None, "secret"])
def test_ecs(service: Service, token: str | None) -> None:
    """With and without the hardened mode, in which a token is asked for."""
    service.token = token
    service.needs = {"X-aliyun-ecs-metadata-token": token} if token else {}
    assert service.read("alibaba") is None
    service.answers["/latest/meta-data/instance/spot/termination-time"] = "2030-01-02T03:04:05Z\n"
    assert service.read("alibaba") == SpotNotice(END.timestamp(), "ECS releases the preemptible instance")


def test_the_firmware_tells_the_cloud(tmp_path: Path) -> None:
    assert cloud_of(tmp_path) is None
    vendor, tag = tmp_path / "sys_vendor", tmp_path / "chassis_asset_tag"
    for text, cloud in (("Amazon EC2\n", "aws"), ("Google\n", "gcp"), ("Alibaba Cloud\n", "alibaba"), ("QEMU\n", None)):
        vendor.write_text(text)
        assert cloud_of(tmp_path) == cloud
    vendor.write_text("Microsoft Corporation\n")
    tag.write_text("a laptop")
    assert cloud_of(tmp_path) is None
    tag.write_text("7783-7084-3265-9085-8269-3286-77\n")
    assert cloud_of(tmp_path) == "azure"


def test_the_node_tells_of_a_notice_to_who_waits(service: Service, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    service.answers["/latest/meta-data/instance/spot/termination-time"] = "2030-01-02T03:04:05Z"
    monkeypatch.setenv("MW_SPOT_METADATA", "alibaba")
    monkeypatch.setenv("MW_SPOT_METADATA_URL", service.url)
    with InProcessAgent(home) as agent:
        cursor, _ = agent.changes(0, 0.0)
        while agent.node().notice_at is None:
            cursor, keys = agent.changes(cursor, 30.0)
            assert keys == []
        assert agent.node().notice_at == END.timestamp()
        assert agent.node().notice == "ECS releases the preemptible instance"


def test_a_service_that_does_not_answer_is_no_notice(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MW_SPOT_METADATA", "aws")
    monkeypatch.setenv("MW_SPOT_METADATA_URL", "http://127.0.0.1:9")
    with InProcessAgent(home) as agent:
        poll(lambda: agent.node().name != "")
        assert agent.node().notice_at is None
