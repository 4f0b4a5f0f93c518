"""Settings: what the file and the variables say, and where they are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelworks.home import Home
from modelworks.kernel.catalogue import environment_digest, normalise_requirement
from modelworks.kernel.errors import Invalid, SetupFailed
from modelworks.kernel.run import Resources
from modelworks.settings import Settings, shipped_environments

SERVER_NEEDS = {"numpy", "orjson", "uvloop", "httptools", "onnxruntime"}
OWN_SERVERS = {"llamacpp"}


def load(tmp_path: Path, text: str | None = None, **variables: str) -> Settings:
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    return Settings.load(Home(tmp_path), variables)


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.host, settings.port, settings.s3_port, settings.currency) == ("127.0.0.1", 8700, 8733, "USD")
    assert settings.home == str(tmp_path)


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    settings = load(tmp_path, "port: 9000\nhost: 0.0.0.0\n", MW_PORT="9001", MW_S3_ENDPOINT="http://s3")
    assert (settings.port, settings.host, settings.s3_endpoint) == (9001, "0.0.0.0", "http://s3")


def test_on_and_off_may_be_written_bare(tmp_path: Path) -> None:
    settings = load(tmp_path, "spot_metadata: off\ntracking: off\n")
    assert (settings.spot_metadata, settings.tracking) == ("off", "off")
    assert load(tmp_path, "tracking: on\n").tracking == "on"
    with pytest.raises(Invalid) as caught:
        load(tmp_path, "spot_metadata: on\n")
    (field,) = caught.value.fields
    assert field.path == "spot_metadata"
    assert "'auto', 'off', 'aws', 'gcp', 'azure' or 'alibaba'" in field.message


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("host: a\nport: many\n", "port", 2),
        ("nonsense: 1\n", "nonsense", 1),
        ("home: /elsewhere\n", "home", 1),
        ("instance_types:\n  mine:\n    cpu: 1\n", "instance_types.mine.price_per_hour", 2),
        ("substitutions:\n  images:\n    - {from: a, to: b}\n    - {from: a}\n", "substitutions.images.1.to", 4),
    ],
)
def test_a_wrong_field_is_named_with_its_line(tmp_path: Path, text: str, path: str, line: int) -> None:
    with pytest.raises(Invalid) as caught:
        load(tmp_path, text)
    (field,) = caught.value.fields
    assert field.path == path
    assert f"config.yaml:{line})" in field.message or f"config.yaml:{line};" in field.message.replace(")", ";")


def test_a_wrong_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match="MW_PORT"):
        load(tmp_path, MW_PORT="many")


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "a: 1\na: 2\n", "a: \x00", "text"])
def test_what_is_no_yaml_mapping_cannot_start(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupFailed, match=r"config\.yaml"):
        load(tmp_path, text)


def test_nothing_is_substituted_unasked(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.substitute("instance_type", "ecs.gn7i-c8g1.2xlarge") is None
    assert settings.substitute("image", "anything") is None
    assert settings.substitute("model", "/models/Qwen") is None


def test_the_first_rule_that_matches_counts_and_only_once(tmp_path: Path) -> None:
    rules = "[{from: 'ecs.gn*', to: local.small}, {from: 'ecs.*', to: local.tiny}, {from: local.small, to: x}]"
    settings = load(tmp_path, f"substitutions:\n  instance_types: {rules}\n")
    used = settings.substitute("instance_type", "ecs.gn7i-c8g1.2xlarge")
    assert used is not None
    assert (used.requested, used.used, used.origin) == ("ecs.gn7i-c8g1.2xlarge", "local.small", "configuration")
    assert settings.substitute("instance_type", "ml.other") is None


def test_the_users_types_are_over_the_shipped_ones(tmp_path: Path) -> None:
    settings = load(tmp_path, "instance_types:\n  local.small: {cpu: 3, memory: 5Gi, price_per_hour: 7}\n")
    found = settings.find_instance_type("local.small")
    assert found is not None
    assert (found.resources.cpu, found.resources.memory, found.price_per_hour) == (3000, 5 * 1024**3, 7)
    assert settings.find_instance_type("ecs.g6.large") is not None
    assert settings.find_instance_type("none") is None


def test_custom_resources_have_a_price(tmp_path: Path) -> None:
    settings = load(tmp_path, "prices: {cpu_hour: 1, memory_gib_hour: 10, gpu_hour: 100}\n")
    assert settings.price(Resources(cpu=2, memory="3Gi", gpu=1)) == 132


def test_shipped_environments_hold_what_the_model_server_needs_pinned_exactly() -> None:
    for name, environment in shipped_environments().environments.items():
        pins = dict(line.split("==") for line in environment.requirements)
        if name not in OWN_SERVERS:
            assert pins.keys() >= SERVER_NEEDS, name
        assert pins.get("torch", "2.13.0") == "2.13.0", name


@pytest.mark.parametrize(
    ("image", "environment"),
    [
        ("pytorch2.3-gpu-py310-cu124", "pytorch"),
        ("tensorflow2.15-gpu-py310", "tensorflow"),
        ("modelscope1.17-pytorch2.3", "modelscope"),
        ("registry.example/pai/pai-image-pytorch:2.3", "pytorch"),
        ("pai-image-vllm:0.6", "vllm"),
    ],
)
def test_a_clouds_image_names_are_aliases(image: str, environment: str) -> None:
    used = Settings().environment_alias(image)
    assert used is not None
    assert (used.used, used.origin) == (environment, "catalogue")
    assert Settings().find_environment(environment) is not None


def test_the_digest_is_of_the_content() -> None:
    one = environment_digest(["Scikit_Learn == 1.9.1", "numpy"], "3.11", None)
    assert one == environment_digest(["numpy", "scikit-learn==1.9.1  # why", "numpy"], "3.11", None)
    others = {
        environment_digest(["numpy"], "3.11", None),
        environment_digest(["numpy", "scikit-learn==1.9.1"], None, None),
        environment_digest([], None, "image"),
    }
    assert len(others | {one}) == 4
    assert normalise_requirement("--index-url https://x/y") == "--index-url https://x/y"
    assert normalise_requirement("My.Pkg[Extra] >= 1 ; python_version < '3.12'").startswith("my-pkg")
