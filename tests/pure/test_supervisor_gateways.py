from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.home import Home
from modelworks.supervisor.units import default_gateways, gateways


@pytest.mark.parametrize(
    ("cores", "count"), [(1, 1), (2, 1), (4, 1), (7, 1), (8, 2), (16, 4), (31, 7), (32, 8), (256, 8)]
)
def test_one_up_to_four_cores_then_one_for_each_four(cores: int, count: int) -> None:
    assert default_gateways(cores) == count


def test_each_has_its_own_control_socket_and_the_same_port(tmp_path: Path) -> None:
    units = gateways(Home(tmp_path), 3)
    assert [unit.name for unit in units] == ["gateway", "gateway-2", "gateway-3"]
    assert all(unit.listens for unit in units)
    assert len({unit.questions[0].address for unit in units}) == 3
    assert {unit.env["MW_GATEWAY_COUNT"] for unit in units} == {"3"}
