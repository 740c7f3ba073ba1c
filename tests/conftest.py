"""The fixtures that tests share: small models and the conformance suite's weight sets."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import spelling_models
from gpt2spec_conformance.weights import WEIGHT_SETS, weight_set
from hypothesis import settings

from gpt2spec.cli.main import main
from gpt2spec.config import GPT2Config
from gpt2spec.parameters import HostParams, initial_parameters


def pytest_configure(config: pytest.Config) -> None:
    """Share the cores among the processes of `pytest -n`, whose threads would otherwise wait for each other."""
    if workers := getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


settings.register_profile("gpt2spec", deadline=None)
settings.load_profile("gpt2spec")

SMALL = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=24, vocab_size=37, dropout=0.0)


@pytest.fixture
def small() -> GPT2Config:
    """A configuration of two layers with two heads, an odd vocabulary and no dropout."""
    return SMALL


@pytest.fixture(params=WEIGHT_SETS)
def make_weights(request: pytest.FixtureRequest) -> Callable[[GPT2Config], HostParams]:
    """A function that makes the weights of a configuration, from each of the weight sets in turn."""
    return lambda config: weight_set(request.param, config)


@pytest.fixture
def probe() -> Callable[[GPT2Config], HostParams]:
    """The large weights, for laws that hold with any weights."""
    return lambda config: weight_set("probe", config)


@pytest.fixture
def batch() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Random tokens and targets [rows, length]."""

    def draw(config: GPT2Config, rows: int, length: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        tokens, targets = np.random.default_rng(seed).integers(0, config.vocab_size, (2, rows, length))
        return tokens, targets

    return draw


@pytest.fixture(scope="session")
def babbler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of an untrained model that reads bytes, so that every text is different."""
    params = initial_parameters(spelling_models.CONFIG, seed=0)
    return spelling_models.write_run(tmp_path_factory.mktemp("runs") / "babbler", params)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line: exit code, standard output and standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(each) for each in arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_generate(command: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Run `gpt2spec generate` on a run directory: exit code, standard output and standard error."""
    return lambda folder, *arguments: command("generate", "--checkpoint", folder, *arguments)
