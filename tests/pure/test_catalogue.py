"""What an environment may ask a node to install."""

from __future__ import annotations

import pytest

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.errors import Invalid
from modelworks.settings import shipped_environments

GOOD = [
    "numpy",
    "numpy==2.4.6",
    "scikit_learn >= 1.5, < 2",
    "uvicorn[standard]~=0.30",
    "torch==2.3.0+cpu",
    'tomli>=2 ; python_version < "3.11"',
    "numpy==2.4.6  # see https://example.org/why",
    "numpy==2.4.6 --hash=sha256:abcdef",
    "requests (>=2.0)",
    "pkg @ https://example.org/pkg-1.0-py3-none-any.whl",
    "pkg@git+https://github.com/a/b@v1#subdirectory=x",
    "git+https://github.com/a/b.git@main#egg=b",
    "https://example.org/pkg-1.0.tar.gz",
    "--index-url https://download.pytorch.org/whl/cpu",
    "--extra-index-url=https://example.org/simple",
    "--pre",
    "--only-binary :all:",
    "# a comment",
]
BAD = [
    "-r /var/lib/modelworks/secrets/local.key",
    "--requirement=/etc/shadow",
    "-c ../constraints.txt",
    "-e .",
    "--editable=/srv/code",
    "--index-url file:///srv",
    "--find-links /root",
    "--trusted-host evil",
    "./local",
    "../local",
    "/root/package",
    "~/package",
    "folder/package.whl",
    "file:///etc/passwd",
    "pkg @ file:///etc/passwd",
    "pkg @ /etc",
    "git+file:///srv/repository",
    "https://example.org/${AWS_SECRET_ACCESS_KEY}/x.whl",
    "--index-url https://${HOME}@example.org/",
]


@pytest.mark.parametrize("line", GOOD)
def test_packages_and_indexes_are_accepted(line: str) -> None:
    assert EnvironmentSpec.parse({"requirements": [line]}).requirements == (line,)


@pytest.mark.parametrize("more", [{"requirements": ["peft"]}, {"python": "3.11"}])
def test_nothing_is_installed_into_an_image(more: dict[str, object]) -> None:
    with pytest.raises(Invalid, match=f"give either image or {next(iter(more))}, not both") as caught:
        EnvironmentSpec.parse({"image": "registry/torch:2", **more}, at="spec.environment")
    assert caught.value.fields[0].path == "spec.environment"


@pytest.mark.parametrize("line", BAD)
def test_files_and_variables_of_the_node_are_refused(line: str) -> None:
    with pytest.raises(Invalid):
        EnvironmentSpec.parse({"requirements": [line]})


def test_the_shipped_ones_are_accepted() -> None:
    assert shipped_environments().environments
