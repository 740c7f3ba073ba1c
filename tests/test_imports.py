"""Imports go one way and never in a circle, and what needs no framework loads none.

The core knows neither backends nor the conformance suite nor a framework; a backend knows the contract, its
own package and its own framework; the conformance suite reaches backends only as plugins.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import gpt2spec

ROOT = Path(__file__).parent.parent
CORE = ROOT / "gpt2spec"
BACKENDS = {path.name: path for path in sorted((ROOT / "backends").glob("gpt2spec_*"))}
CONFORMANCE = ROOT / "conformance" / "gpt2spec_conformance"
FRAMEWORKS = {
    "gpt2spec_numpy": {"autograd", "threadpoolctl"},
    "gpt2spec_torch": {"torch"},
    "gpt2spec_jax": {"jax", "jaxlib", "orbax", "etils"},
    "gpt2spec_tinygrad": {"tinygrad", "ziglang"},
}
ALL_FRAMEWORKS = {*set.union(*FRAMEWORKS.values()), "transformers", "tensorflow"}
SUITE_COMMANDS = {CORE / "cli" / "conform.py", CORE / "cli" / "vectors.py"}
"""The commands that run the suite, which they import when they run."""
TORCH_FILES = CORE / "checkpoints" / "torch_file.py"
"""The module that reads PyTorch's own files, for which it imports PyTorch."""
CONTRACT = {
    f"gpt2spec.{name}"
    for name in ("backend", "errors", "ops", "options", "parameters", "processes", "sharding", "tree")
}
"""The pages of the contract, and what the core has for whoever implements it."""


def modules_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.py"))


def imports(source: str, package: str = "") -> Iterator[str]:
    """The dotted names of all imports anywhere in a module; `from a import b` is `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package.split(".")[: -node.level + 1 or None]) if node.level else ""
            home = ".".join(filter(None, [base, node.module]))
            yield from (f"{home}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("import_module", "__import__"):
                yield str(node.args[0].value)


def imports_of(path: Path, root: Path) -> list[str]:
    package = ".".join([root.name, *path.relative_to(root).parts[:-1]])
    return list(imports(path.read_text(), package))


def top(name: str) -> str:
    return name.partition(".")[0]


def is_within(name: str, homes: set[str]) -> bool:
    """Whether a dotted name is one of `homes` or something in it."""
    return any(name == home or name.startswith(f"{home}.") for home in homes)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import torch.nn as nn, os", ["torch.nn", "os"]),
        ("def f():\n    from gpt2spec.ops import Tensor", ["gpt2spec.ops.Tensor"]),
        ("from . import kernels", ["a.b.kernels"]),
        ("from ..c import d", ["a.c.d"]),
        ("importlib.import_module('jax')\n__import__('torch')", ["jax", "torch"]),
    ],
)
def test_this_test_sees_every_form_of_import(source: str, expected: list[str]) -> None:
    assert list(imports(source, "a.b")) == expected


def import_graph(packages: Sequence[Path]) -> dict[str, set[str]]:
    """For every module of some packages, those modules among them that it imports, at its top or anywhere else."""
    paths = {
        ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__"): path
        for package in packages
        for path in modules_of(package)
    }
    graph = {}
    for module, path in paths.items():
        tree = ast.parse(path.read_text())
        packages_named = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        graph[module] = {name for name in (*imports(ast.unparse(tree)), *packages_named) if name in paths} - {module}
    return graph


def circle_in(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, the first one also at the end; empty where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = import_graph([CORE, CONFORMANCE, *BACKENDS.values()])
    assert graph["gpt2spec.cli.main"] >= {"gpt2spec.cli.signals", "gpt2spec.errors"}
    assert circle_in(graph) == []


def test_a_circle_is_found_where_one_import_is_in_a_function_and_one_of_a_package(tmp_path: Path) -> None:
    package = tmp_path / "ring"
    package.mkdir()
    (package / "__init__.py").write_text("from ring import one")
    (package / "one.py").write_text("def f():\n    import ring.two")
    (package / "two.py").write_text("")
    assert circle_in(import_graph([package])) == []
    (package / "two.py").write_text("def g():\n    from ring.one import f")
    assert set(circle_in(import_graph([package]))) == {"ring.one", "ring.two"}


@pytest.mark.parametrize("path", modules_of(CORE), ids=lambda path: str(path.relative_to(ROOT)))
def test_core_imports_no_backend_no_conformance_and_no_framework(path: Path) -> None:
    forbidden = {*BACKENDS, CONFORMANCE.name, *ALL_FRAMEWORKS}
    if path in SUITE_COMMANDS:
        forbidden.remove(CONFORMANCE.name)
    if path == TORCH_FILES:
        forbidden.remove("torch")
    assert [name for name in imports_of(path, CORE) if top(name) in forbidden] == []


@pytest.mark.parametrize("path", modules_of(CORE / "cli"), ids=lambda path: path.name)
def test_command_imports_only_the_standard_library_at_its_top(path: Path) -> None:
    tree = ast.parse(path.read_text())
    at_top = "\n".join(ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom))
    allowed = {"gpt2spec.cli", "gpt2spec.errors"}
    heavy = [n for n in imports(at_top) if top(n) not in sys.stdlib_module_names and not is_within(n, allowed)]
    assert heavy == []


@pytest.mark.parametrize(
    ("backend", "path"),
    [(name, path) for name, folder in BACKENDS.items() for path in modules_of(folder)],
    ids=lambda value: str(value.relative_to(ROOT / "backends")) if isinstance(value, Path) else value,
)
def test_backend_imports_only_the_contract_and_its_own_framework(backend: str, path: Path) -> None:
    contract = CONTRACT | ({"gpt2spec.hookspecs"} if path.name == "plugin.py" else set())
    packages = {backend, "numpy", "platformdirs", *FRAMEWORKS[backend], *sys.stdlib_module_names}
    if path.name == "plugin.py":
        packages -= {"numpy", *FRAMEWORKS[backend]}  # listing plugins loads no framework
    names = imports_of(path, BACKENDS[backend])
    assert [name for name in names if top(name) not in packages and not is_within(name, contract)] == []


@pytest.mark.parametrize("path", modules_of(CONFORMANCE), ids=lambda path: str(path.relative_to(CONFORMANCE)))
def test_conformance_reaches_backends_only_as_plugins(path: Path) -> None:
    assert [name for name in imports_of(path, CONFORMANCE) if top(name) in BACKENDS] == []


def loaded_by(*arguments: str) -> set[str]:
    """The top-level packages that a new Python process imports, as `-X importtime` reports."""
    command = [sys.executable, "-X", "importtime", *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    lines = [line for line in ran.stderr.splitlines() if line.startswith("import time:")]
    return {top(line.rpartition("|")[2].strip()) for line in lines}


@pytest.mark.parametrize(
    "arguments",
    [("-c", "import gpt2spec"), ("-m", "gpt2spec", "--help"), ("-m", "gpt2spec", "--version")],
    ids=" ".join,
)
def test_light_start_loads_neither_numpy_nor_a_framework(arguments: tuple[str, ...]) -> None:
    loaded = loaded_by(*arguments)
    assert "gpt2spec" in loaded
    assert loaded & {"numpy", "pluggy", *ALL_FRAMEWORKS} == set()


@pytest.mark.parametrize("arguments", ["backends", "backends --verbose", "backends --json", "info gpt2"])
def test_listing_loads_no_framework(arguments: str) -> None:
    loaded = loaded_by("-m", "gpt2spec", *arguments.split())
    assert "numpy" in loaded
    assert loaded & ALL_FRAMEWORKS == set()


def test_pytorch_that_compiles_nothing_loads_no_inductor() -> None:
    pytest.importorskip("torch")
    load = "import sys; from gpt2spec_torch.create import create; create('cpu', compile=False)"
    command = [sys.executable, "-c", f"{load}; sys.exit('torch._inductor.async_compile' in sys.modules)"]
    assert subprocess.run(command, timeout=120).returncode == 0


def test_public_names_are_imported_when_asked_for() -> None:
    for name in gpt2spec.__all__:
        assert name in dir(gpt2spec)
        assert getattr(gpt2spec, name) is not None
    with pytest.raises(AttributeError, match="module 'gpt2spec' has no attribute 'lodgits'"):
        _ = gpt2spec.lodgits
