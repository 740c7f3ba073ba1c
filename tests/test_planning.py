"""The estimates of `gpt2spec info --devices` are compared with measurements of small cases."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks

from gpt2spec.cli.main import main
from gpt2spec.config import GPT2Config, preset
from gpt2spec.costs import training_flops_per_token
from gpt2spec.errors import ConfigError
from gpt2spec.optimizer import AdamW
from gpt2spec.parameters import count_parameters, initial_parameters
from gpt2spec.planning import Cluster, plan

SMALL = GPT2Config(n_layer=3, n_head=4, n_embd=64, n_ctx=64, vocab_size=512, dropout=0.0)
ROWS = 4
ROOT = Path(__file__).parent


def planned(kind: str, devices: int = 2) -> Any:
    return plan(SMALL, Cluster(devices, kind), "float32", ROWS, SMALL.n_ctx)


# ------------------------------------------------------------------ arithmetic


def test_one_device_sends_nothing_and_computes_all() -> None:
    config = preset("gpt2")
    alone = plan(config, Cluster(flops=1e14, utilization=0.5), "float32", 8, 1024)
    assert alone.sent == 0 and alone.send_seconds == 0.0
    assert alone.state == 12 * count_parameters(config) and alone.gradients == 4 * count_parameters(config)
    flops = training_flops_per_token(config, 1024) * 8 * 1024
    assert alone.step_seconds == alone.compute_seconds == pytest.approx(flops / 0.5e14)
    assert alone.training_seconds(8 * 1024 * 100, 8 * 1024) == pytest.approx(100 * alone.step_seconds)


def test_more_devices_divide_the_work_and_what_is_sharded() -> None:
    config = preset("gpt2")
    one, eight = (plan(config, Cluster(n, "sharded"), "bfloat16", 64, 1024) for n in (1, 8))
    assert eight.compute_seconds == pytest.approx(one.compute_seconds / 8)
    assert eight.state * 8 == pytest.approx(one.state, abs=8) and eight.activations * 8 == one.activations
    data = plan(config, Cluster(8, "data"), "bfloat16", 64, 1024)
    assert data.state == one.state and eight.sent < 2 * data.sent


def test_wrong_plans_are_refused() -> None:
    for wrong in ({"devices": 0}, {"parallel": "pipeline"}, {"flops": 0.0}, {"bandwidth": -1.0}, {"utilization": 2.0}):
        with pytest.raises(ConfigError):
            Cluster(**wrong)  # type: ignore[arg-type]


def test_the_command_prints_a_plan(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["info", "gpt2", "--batch-size", "512", "--devices", "8", "--parallel", "sharded", "--dtype", "bfloat16"]
    assert main([*options, "--device-flops", "312e12", "--bandwidth", "300e9", "--tokens", "300e9"]) == 0
    text = capsys.readouterr().out
    assert "ON EACH OF 8 DEVICES, SHARDED, BFLOAT16" in text and "300 G tokens" in text
    assert main([*options, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]
    assert found["tokens"] == 20 * count_parameters(preset("gpt2")) and found["memory"] > found["state"] > 0
    assert main([*options, "--parallel", "pipeline"]) == 2


# ------------------------------------------------------------------ beside PyTorch


def measured(kind: str) -> dict[str, int]:
    """Bytes of state and gradients of this process, and bytes that its steps gather and scatter."""
    import torch
    import torch.distributed as dist

    from gpt2spec.accumulation import MicroBatch, accumulated_step
    from gpt2spec.optimizer import initial_state, update_scalars
    from gpt2spec.plugins import load_backend
    from gpt2spec.tree import tree_leaves

    backend = load_backend("torch", device="cpu", parallel=kind, compile=False)
    state = initial_state(backend.ops, backend.load_params(initial_parameters(SMALL, 0)))
    tokens = torch.zeros(ROWS // 2, SMALL.n_ctx, dtype=torch.int32)
    scalars = {name: torch.tensor(x) for name, x in update_scalars(AdamW(), 1e-3, 1).items()}
    step = accumulated_step(backend, SMALL, AdamW())
    batch = [MicroBatch(tokens, tokens, torch.tensor(1.0), None)]
    state, _ = step(state, batch, scalars)
    moved = {"gathered": 0, "scattered": 0}
    gather, scatter = dist.all_gather_single, dist.reduce_scatter_single

    def gathering(output: Any, *args: Any, **named: Any) -> Any:
        moved["gathered"] += output.nbytes
        return gather(output, *args, **named)

    def scattering(*args: Any, **named: Any) -> Any:
        moved["scattered"] += (args[1] if len(args) > 1 else named["input"]).nbytes
        return scatter(*args, **named)

    dist.all_gather_single, dist.reduce_scatter_single = gathering, scattering
    step(state, batch, scalars)
    leaves = [x.to_local() if hasattr(x, "to_local") else x for x in tree_leaves(state)]
    return {"state": sum(x.nbytes for x in leaves), **moved}


@pytest.mark.parametrize("kind", ["data", "sharded"])
def test_memory_and_traffic_of_two_pytorch_processes(kind: str) -> None:
    pytest.importorskip("torch")
    expected = planned(kind)
    for found in run_ranks(2, measured, kind):
        assert found["state"] == pytest.approx(expected.state, rel=0.01)
        if kind == "sharded":
            assert (found["gathered"] + found["scattered"]) / 2 == pytest.approx(expected.sent, rel=0.02)


# ------------------------------------------------------------------ beside XLA


SCRIPT = """
import json, math, re, sys
import jax, numpy as np
from gpt2spec.config import GPT2Config
from gpt2spec.optimizer import AdamW, initial_state, train_step, update_scalars
from gpt2spec.parameters import initial_parameters
from gpt2spec.plugins import load_backend

rows, config = int(sys.argv[1]), GPT2Config(**json.loads(sys.argv[2]))
found, jit = {}, jax.jit

def sent(line):
    # by each of two devices, as a ring does it: all of what is added up, half of what is gathered
    match = re.search("= (.*) (all-reduce|all-gather)[(]", line)
    if match is None:
        return 0
    shapes = re.findall("[fsu]32.([0-9,]*)", match[1])
    size = 4 * sum(math.prod(map(int, shape.split(","))) if shape else 1 for shape in shapes)
    times = config.n_layer if "while/body" in line else 1
    return times * (size if match[2] == "all-reduce" else size // 2)

def measuring(function, **options):
    program = jit(function, **options)
    def run(*args):
        compiled = program.lower(*args).compile()
        sizes = compiled.memory_analysis()
        found[kind] = {"arguments": sizes.argument_size_in_bytes, "temporary": sizes.temp_size_in_bytes}
        found[kind]["sent"] = sum(map(sent, compiled.as_text().splitlines()))
        return program(*args)
    return run

for kind in ("data", "sharded", "tensor"):
    backend = load_backend("jax", parallel=kind)
    state = initial_state(backend.ops, backend.load_params(initial_parameters(config, 0)))
    tokens = np.zeros((rows, config.n_ctx), np.int32)
    batch = [backend.put_rows(tokens), backend.put_rows(tokens)] if kind != "tensor" else [backend.put(tokens)] * 2
    scalars = {name: backend.put(np.float64(x)) for name, x in update_scalars(AdamW(), 1e-3, 1).items()}
    step = train_step(backend, config, AdamW())
    jax.jit = measuring
    step(state, *batch, scalars, None)
    jax.jit = jit
print(json.dumps(found))
"""


def test_memory_and_traffic_of_two_xla_devices(tmp_path: Path) -> None:
    """XLA reports the memory of its programs. On a CPU they keep more than they need, so the margin is wide.

    The text of a program shows what it sends. With "sharded", XLA chooses between weights and activations.
    """
    pytest.importorskip("jax")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    line = [sys.executable, "-c", SCRIPT, str(ROWS), json.dumps(SMALL.__dict__)]
    process = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    for kind, found in json.loads(process.stdout.splitlines()[-1]).items():
        expected = planned(kind)
        assert found["arguments"] == pytest.approx(expected.state, rel=0.03), kind
        assert expected.activations < found["temporary"], kind
        embedding = 4 * SMALL.vocab_size * SMALL.n_embd
        sent = {"data": expected.sent + embedding, "tensor": expected.sent, "sharded": found["sent"]}
        assert found["sent"] == pytest.approx(sent[kind], rel=0.01), kind
