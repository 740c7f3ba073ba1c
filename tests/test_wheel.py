"""The published wheel works in an environment without any framework."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "gpt2spec",
    "gpt2spec_conformance",
    "gpt2spec_jax",
    "gpt2spec_numpy",
    "gpt2spec_tinygrad",
    "gpt2spec_torch",
}


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command without the variables that would let it see this environment's packages."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    ran = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, f"{' '.join(map(str, command))}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def scripts(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands in a new environment with only the wheel and its dependencies."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    constraints = ROOT / "constraints.txt"
    run(scripts / "python", "-m", "pip", "install", "--quiet", "--constraint", constraints, wheel, cwd=environment)
    return scripts


def test_wheel_has_all_packages_their_data_and_the_licence(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == PACKAGES
    assert "gpt2spec/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    for folder in (ROOT / "gpt2spec", *(ROOT / "backends").glob("*"), ROOT / "conformance" / "gpt2spec_conformance"):
        files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {path.relative_to(folder.parent).as_posix() for path in files} <= set(names)


def test_installed_wheel_lists_backends_without_a_framework(scripts: Path, tmp_path: Path) -> None:
    run(scripts / "python", "-m", "pip", "check", cwd=tmp_path)
    probe = "import importlib.util as u; print([m for m in ('torch', 'jax', 'tinygrad') if u.find_spec(m)])"
    assert run(scripts / "python", "-c", probe, cwd=tmp_path).strip() == "[]"
    rows = {row["name"]: row for row in json.loads(run(scripts / "gpt2spec", "backends", "--json", cwd=tmp_path))}
    assert rows["numpy"]["status"] == "ready"
    assert "broken" not in [row["status"] for row in rows.values()]
    assert [name for name, row in rows.items() if row["status"] == "ready"] == ["numpy"]


def test_installed_wheel_trains(scripts: Path, tmp_path: Path) -> None:
    command = "train --preset test --steps 2 --batch-size 2 --context 16 --out run"
    run(scripts / "gpt2spec", *command.split(), cwd=tmp_path)
    assert any((tmp_path / "run").rglob("*.safetensors"))
