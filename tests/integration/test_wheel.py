"""The wheel: what is in it, and that its base is client enough without the platform's packages."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from modelworks.agent.environments import find_uv

ROOT = Path(__file__).resolve().parents[2]
WANTED = (
    "modelworks/py.typed",
    "modelworks/data/environments.yaml",
    "modelworks/data/instance_types.yaml",
    "modelworks/db/migrations/versions/0001_first.py",
    "modelworks/examples/ddp/job.yaml",
    "modelworks/examples/ddp/train.py",
    "modelworks/examples/digits/job.yaml",
    "modelworks/examples/digits/service.yaml",
    "modelworks/examples/digits/train.py",
    "modelworks/examples/sft/data/qa.jsonl",
    "modelworks/examples/sft/job.yaml",
    "modelworks/examples/sft/make_model.py",
    "modelworks/examples/sft/service.yaml",
    "modelworks/examples/sft/train_sft.py",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, uv = tmp_path_factory.mktemp("wheel"), find_uv()
    if uv is None:
        pytest.skip("needs uv")
    command = [uv, "build", "--wheel", "--quiet", "--out-dir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, timeout=170)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def base(wheel: Path) -> Path:
    """A virtual environment with the wheel and no extra."""
    folder, uv = wheel.parent / "base", str(find_uv())
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True, timeout=60)
    install = [uv, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python"), str(wheel)]
    subprocess.run([*install, "--constraint", str(ROOT / "constraints.txt")], check=True, timeout=170)
    return folder / "bin"


def run(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(home), "MW_HOME": str(home), "XDG_CONFIG_HOME": str(home)}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False, cwd=home)


def test_it_holds_what_runs_need_and_no_more(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert set(WANTED) <= set(names)
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"modelworks"}
    assert [name for name in names if "__pycache__" in name] == []


def test_the_base_is_sdk_and_cli(base: Path, tmp_path: Path) -> None:
    program = (
        "import modelworks, modelworks.sdk, modelworks.sdk.estimator, modelworks.sdk.model\n"
        "from modelworks.cli.app import COMMANDS, load\n"
        "[load(name) for name in COMMANDS]\n"
        "print(modelworks.__file__)"
    )
    done = run(tmp_path, base / "python", "-c", program)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(base.parent)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, ""),
        (["job", "list"], 5, "no platform is known"),
        (["login", "http://127.0.0.1:9", "--key", "k"], 5, "127.0.0.1:9"),
        (["up"], 1, "pip install 'modelworks[server]'"),
        (["status"], 3, ""),
        (["quickstart"], 1, "pip install 'modelworks[server,quickstart]'"),
    ],
)
def test_commands_of_the_base(base: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    done = run(tmp_path, base / "mw", *arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr


def test_a_job_runs_without_the_platform(base: Path, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("kind: TrainingJob\nmetadata: {name: here}\nspec: {command: echo hello}\n")
    done = run(tmp_path, base / "mw", "job", "run", "--local", "-f", "job.yaml", "--directory", "out")
    assert (done.returncode, "hello" in done.stdout) == (0, True), done.stderr


def test_the_shell_completes_commands(base: Path, tmp_path: Path) -> None:
    script = f'PATH={base}:$PATH; eval "$(mw --show-completion bash)"; COMP_WORDS=(mw jo); COMP_CWORD=1; '
    done = run(tmp_path, "bash", "-c", script + '_mw_completion mw; echo "${COMPREPLY[@]}"')
    assert done.stdout == "job\n", done.stderr
