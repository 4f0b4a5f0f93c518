"""The environment contract of a job's replicas."""

from __future__ import annotations

import json
import shlex

from hypothesis import given
from hypothesis import strategies as st

from modelworks.products.training.ranks import (
    channel_variable,
    hyperparameter_texts,
    hyperparameter_variables,
    master_port,
    rank_variables,
)
from modelworks.products.workload import arguments, expand, expand_variables


def test_one_machine_variables() -> None:
    found = rank_variables(uid="abcdef12", name="digits", attempt=2, rank=1, world_size=3, gpus=0)
    assert found["RANK"] == found["PET_NODE_RANK"] == "1"
    assert found["WORLD_SIZE"] == found["PET_NNODES"] == "3"
    assert found["NPROC_PER_NODE"] == found["PET_NPROC_PER_NODE"] == "1"
    assert found["MASTER_ADDR"] == found["PET_MASTER_ADDR"] == "127.0.0.1"
    assert found["MASTER_PORT"] == found["PET_MASTER_PORT"] == str(master_port("abcdef12", 2))
    assert (found["MW_JOB"], found["MW_ATTEMPT"]) == ("digits", "2")


def test_processes_follow_the_gpus() -> None:
    assert rank_variables(uid="u", name="n", attempt=1, rank=0, world_size=1, gpus=4)["NPROC_PER_NODE"] == "4"


@given(uid=st.text("abcdef0123456789", min_size=6, max_size=32), attempt=st.integers(1, 1000))
def test_master_port_is_below_the_ephemeral_ports_and_stable(uid: str, attempt: int) -> None:
    port = master_port(uid, attempt)
    assert 20_000 <= port < 30_000
    assert port == master_port(uid, attempt)


def test_hyperparameters_as_text() -> None:
    values: dict[str, str | int | float | bool] = {"lr": 0.001, "epochs": 3, "bf16": True, "name": "a b"}
    assert hyperparameter_texts(values) == {"lr": "0.001", "epochs": "3", "bf16": "true", "name": "a b"}
    variables = hyperparameter_variables(values)
    assert variables["PAI_HPS_LR"] == "0.001"
    assert json.loads(variables["PAI_HPS"])["bf16"] == "true"
    assert shlex.split(variables["PAI_USER_ARGS"])[-2:] == ["--name", "a b"]
    assert hyperparameter_variables({}) == {}


def test_channel_variable() -> None:
    assert channel_variable("train-data") == "MW_INPUT_TRAIN_DATA"


def test_expansion() -> None:
    known = {"RANK": "1", "EMPTY": ""}
    assert expand("--rank=$(RANK) $(EMPTY)|", known) == "--rank=1 |"
    assert expand("$(date) $(UNKNOWN) $RANK ${RANK}", known) == "$(date) $(UNKNOWN) $RANK ${RANK}"
    assert expand("$$(RANK)", known) == "$(RANK)"
    assert expand_variables({"A": "$(RANK)0", "B": "$(A)$(A)"}, known) == {"A": "10", "B": "1010"}


@given(st.text())
def test_text_without_known_names_is_left_alone(text: str) -> None:
    assert expand(text.replace("$", ""), {"RANK": "1"}) == text.replace("$", "")


def test_arguments() -> None:
    assert arguments("python a.py") == ("/bin/sh", "-c", "python a.py")
    assert arguments(("python", "a.py")) == ("python", "a.py")
