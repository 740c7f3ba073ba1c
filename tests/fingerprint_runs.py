"""Fingerprints of what commands write: runs, resumed runs, runs of several processes, conversions, scores, data."""

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from task_samples import SAMPLES, write_sample

import gpt2spec

Entries = Iterator[tuple[str, Any]]

TEXT = "".join(f"{n} squared is {n * n}; {n} times {n + 1} is {n * (n + 1)}.\n" for n in range(300))
GPT2SPEC = [sys.executable, "-m", "gpt2spec"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "gpt2spec"]
TRAIN = ["train", "text.txt", "--preset", "test", "--context", "16", "--batch-size", "4", "--tokens-per-step", "160"]
TRAIN += ["--dropout", "0.1", "--set", "optimizer.clip=0.5", "--lr", "0.003", "--sample-tokens", "4"]
"""An update has three micro-batches, of 4, 4 and 2 windows."""
SHORT = ["--steps", "4", "--eval-every", "2", "--eval-windows", "4", "--checkpoint-every", "2"]
MEASURED = ("tokens_per_second", "peak_memory", "seconds", "mfu")
"""What metrics say of the machine."""
PROGRESS = r"step +\d+/\d+ |.* MB/s"
"""A line that is printed every ten seconds."""
NOISE = {
    r"\d[\d,.]* tokens/s": "N tokens/s",
    r"\d[\d,.]* tokens a second": "N tokens a second",
    r"ETA [\d:]+": "ETA",
    r"\d+(\.\d+)? (ms|s|seconds?|minutes?)\b": "N seconds",
    r"/tmp/fingerprints-[^/]+": "",
    r"gpt2spec-[0-9.]+[a-z0-9.+]*": "gpt2spec-VERSION",
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?Z?": "DATE",
    r"\d{8}-\d{6}": "DATE",
    r"[0-9a-f]{64}  parts/": "HASH  parts/",  # PyTorch writes the tensors of a shard in the order in which they come
}
"""Times, rates, temporary paths and the like in texts, and what stands for them."""


def normalised(text: str, folder: Path) -> str:
    """A text without what differs from one time to the next."""
    package = str(Path(gpt2spec.__file__).parent)
    text = text.replace(str(folder.resolve()), "FOLDER").replace(package, "PACKAGE").replace("\r", "\n")
    for pattern, word in NOISE.items():
        text = re.sub(pattern, word, text)
    return text


def run(
    folder: Path, line: list[str], inputs: str = "", variables: dict[str, str] | None = None, errors: bool = False
) -> str:
    """What a command that succeeds prints to its standard output, and with `errors` to standard error after that."""
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(line, cwd=folder, env=environment, input=inputs, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{line} ended with {done.returncode}: {done.stderr}")
    shown = [text for text in done.stderr.splitlines() if errors and not re.match(PROGRESS, text)]
    return normalised("\n".join([done.stdout, *shown]) if errors else done.stdout, folder)


def command(folder: Path, *arguments: str, inputs: str = "", errors: bool = True) -> str:
    """What `gpt2spec` prints, its messages on standard error as well."""
    return run(folder, [*GPT2SPEC, *arguments], inputs, errors=errors)


def write_text(folder: Path) -> None:
    """The text that runs are trained on."""
    (folder / "text.txt").write_text(TEXT)


def files(folder: Path, root: Path) -> Entries:
    """Every file below a folder: tensors one by one, texts as they are, other files by their bytes."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(root))
        if path.suffix == ".safetensors":
            yield from ((f"{name}:{tensor}", values) for tensor, values in tensors(path))
        elif path.suffix == ".jsonl":
            yield name, normalised(records(path), root)
        elif path.suffix in (".toml", ".json", ".txt", ".md", ".xml") or path.name == "SHA256SUMS":
            text = normalised(path.read_text(), root)
            yield name, text if len(text) < 5000 else text.encode()
        else:
            yield name, path.read_bytes()


def tensors(path: Path) -> Entries:
    """The bytes of each tensor of a safetensors file, whatever their dtype, after all that its header says of them."""
    size, values = int.from_bytes(path.read_bytes()[:8], "little"), path.read_bytes()
    header = json.loads(values[8 : 8 + size])
    yield "header", json.dumps(header, sort_keys=True).encode()
    for name, tensor in sorted(header.items()):
        if name != "__metadata__":
            begin, end = tensor["data_offsets"]
            yield name, values[8 + size + begin : 8 + size + end]


def records(path: Path) -> str:
    """The lines of a file of JSON without what was measured of the machine."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return "\n".join(json.dumps({name: value for name, value in x.items() if name not in MEASURED}) for x in lines)


def run_files(folder: Path, out: str, *options: str, line: list[str] | None = None, **variables: str) -> Entries:
    """What a training run prints, and its files."""
    errors = line is None and "--backend" not in options  # frameworks have warnings of their own
    printed = run(folder, [*(line or GPT2SPEC), *TRAIN, *options, "--out", out], variables=variables, errors=errors)
    yield f"{out}.printed", printed
    yield from files(folder / out, folder)


def numpy_run(folder: Path) -> Entries:
    """A run with all that it can write but TensorBoard's files, which hold times, and the same resumed and extended."""
    write_text(folder)
    task = write_sample("lambada", folder)
    options = ["--steps", "12", "--eval-every", "3", "--eval-windows", "8", "--checkpoint-every", "4", "--keep-best"]
    options += ["--keep-every", "4", "--sample-every", "6", "--task", f"lambada={task}", "--task-every", "6"]
    options += ["--spike", "3", "--on-spike", "skip"]
    yield from run_files(folder, "run", *options)
    resumed = ["train", "--out", "run", "--resume", "8", "--batch-size", "5"]
    yield "resumed.printed", command(folder, *resumed)
    yield from (("resumed." + name, value) for name, value in files(folder / "run", folder))
    yield "extended.printed", command(folder, "train", "--out", "run", "--resume", "--steps", "14")
    yield from (("extended." + name, value) for name, value in files(folder / "run", folder))
    yield "converted.printed", command(folder, "convert", "run", "converted", "--to", "gpt2spec", "--verify")
    yield from files(folder / "converted", folder)
    yield from started_from_another(folder)


def started_from_another(folder: Path) -> Entries:
    """Runs that begin with other weights, with a tokenizer of their own, on mixed data, and in float64."""
    yield "prepared.printed", command(folder, "data", "prepare", "text.txt", "--tokenizer", "bytes", "--out", "bytes")
    line = ["train", "--init-from", "run", "bytes:3", "text.txt:1", "--context", "16", *SHORT, "--out", "begun"]
    yield "begun.printed", command(folder, *line, "--recipe", "nanogpt", "--seed", "5")
    yield from files(folder / "begun", folder)
    line = ["train", "text.txt", "--preset", "test", "--context", "16", "--dtype", "float64", *SHORT, "--out", "double"]
    yield "double.printed", command(folder, *line, "--recipe", "llmc")
    yield from files(folder / "double", folder)


def interrupted_run(folder: Path) -> Entries:
    """A run that is told to stop some time after it began, and goes on: its end is that of one that was left alone."""
    write_text(folder)
    options = [*TRAIN, "--steps", "40", "--checkpoint-every", "10", "--out", "run"]
    with subprocess.Popen(
        [*GPT2SPEC, *options], cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    ) as job:
        while not (folder / "run" / "checkpoints" / "step-00000010").exists() and job.poll() is None:
            pass
        job.terminate()
    command(folder, "train", "--out", "run", "--resume")
    yield from files(folder / "run" / "checkpoints" / "step-00000040", folder)
    yield "config.toml", normalised((folder / "run" / "config.toml").read_text(), folder)
    yield "metrics.jsonl", records(folder / "run" / "metrics.jsonl")


def demo_use(folder: Path) -> Entries:
    """Texts, scores and other formats of the model that comes with the package."""
    texts = {
        "text": ["--prompt", "It was", "--prompt", "A cold evening, and the", "--samples", "2", "--top-p", "0.9"],
        "json": ["--prompt", "The", "--json", "--logprobs", "3", "--top-k", "9", "--seed", "2", "--stop", "."],
        "beams": ["--prompt", "She said", "--beams", "3", "--samples", "2", "--early-stopping", "--json"],
        "file": ["--file", "-", "--temperature", "0", "--json"],
        "interactive": ["--interactive", "--top-k", "5"],
    }
    for name, options in texts.items():
        line = ["generate", "--checkpoint", "demo", "--max-new-tokens", "12", *options]
        yield f"generate.{name}", command(folder, *line, inputs="It rained.\n\nWhy did\n")
    for form, target in (("hf", "hf"), ("nanogpt", "nanogpt.pt"), ("llmc", "llmc.bin")):
        for dtype in ("float32", "bfloat16"):
            line = ["convert", "demo", f"{dtype}-{target}", "--to", form, "--dtype", dtype, "--verify", "--hashes"]
            yield f"convert.{form}.{dtype}", command(folder, *line)
    for path in sorted(folder.iterdir()):
        yield from files(path, folder) if path.is_dir() else [(path.name, path.read_bytes())]
    for path in ("float32-hf", "float32-nanogpt.pt", "bfloat16-llmc.bin"):
        yield f"info.{path}", command(folder, "info", "--checkpoint", path, "--hashes")


def scores(folder: Path) -> Entries:
    """Every task on its sample: what is printed, and every number in full."""
    paths = [f"{task}={write_sample(task, folder)}" for task in SAMPLES]
    line = ["eval", *SAMPLES, "--checkpoint", "demo", "--json", "scores.json", "--quiet", "--no-cache"]
    yield "printed", command(folder, *line, *(word for path in paths for word in ("--data", path)))
    yield "scores.json", normalised((folder / "scores.json").read_text(), folder)


def data(folder: Path) -> Entries:
    """Prepared folders, a learnt tokenizer, and tokens."""
    write_text(folder)
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT.splitlines()))
    prepare = ["data", "prepare", "text.txt", "lines.jsonl", "--shard-tokens", "4000", "--drop-duplicates"]
    yield "learnt", command(folder, "tokenizer", "train", "text.txt", "--vocab-size", "300", "--out", "learnt")
    for tokenizer in ("gpt2", "bytes", "learnt"):
        out = f"prepared-{tokenizer}"
        options = ["--split-on", r"\n", "--seed", "3", "--tokenizer", tokenizer, "--out", out]
        yield f"{out}.printed", command(folder, *prepare, *options)
        yield f"{out}.info", command(folder, "data", "info", out)
    for out in ("learnt", "prepared-gpt2", "prepared-bytes", "prepared-learnt"):
        yield from files(folder / out, folder)
    for options in ([], ["--json"], ["--count"], ["--line"], ["--tokenizer", "learnt"]):
        yield f"tokenize.{'.'.join(options)}", command(folder, "tokenize", "12 squared is naïve ≥ 2 €", *options)


def conformance(folder: Path) -> Entries:
    """What the suite asks, as files; its verdicts on NumPy, with every error; and on a few mistakes."""
    yield "export.printed", command(folder, "vectors", "export", "vectors")
    yield from files(folder / "vectors", folder)
    yield "numpy", command(folder, "conform", "--backend", "numpy", "--report", "report", "--quiet")
    for name, value in files(folder / "report", folder):
        if not name.endswith(".html"):  # which has all of the others in it, and times
            yield name, re.sub(r'(time|seconds|duration)"?[=:] ?"?[\d.]+"?', "TIME", str(value))


def torch_run(folder: Path) -> Entries:
    """Runs in one process: compiled, operation by operation, and in bfloat16."""
    write_text(folder)
    torch = ["--backend", "torch", "--device", "cpu", *SHORT]
    yield from run_files(folder, "blocks", *torch)
    yield from run_files(folder, "eager", *torch, "--no-compile", "--dtype", "bfloat16")


def torch_ranks(kind: str) -> Callable[[Path], Entries]:
    """Two processes of PyTorch, saved whole and in the processes' shards, resumed by two and by one."""

    def group(folder: Path) -> Entries:
        write_text(folder)
        torch = ["--backend", "torch", "--no-compile", "--parallel", kind, *SHORT]
        yield from run_files(folder, "whole", *torch, "--checkpoint-format", "whole", line=TORCHRUN)
        if kind == "data":
            return
        run(folder, [*TORCHRUN, *TRAIN, *torch, "--out", "parts"])
        resumed = ["train", "--out", "parts", "--resume", "2"]
        run(folder, [*TORCHRUN, *resumed])
        command(folder, "convert", "parts", "gathered", "--to", "gpt2spec")
        yield from files(folder / "gathered", folder)
        alone = [*GPT2SPEC, *resumed, "--parallel", "none", "--checkpoint-format", "whole"]
        yield "resumed.by.one", run(folder, alone)
        yield from files(folder / "parts", folder)

    return group


def jax_run(folder: Path) -> Entries:
    """A run on one device."""
    write_text(folder)
    yield from run_files(folder, "run", "--backend", "jax", *SHORT)


def jax_devices(kind: str) -> Callable[[Path], Entries]:
    """Two devices of JAX in one process."""

    def group(folder: Path) -> Entries:
        write_text(folder)
        variables = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
        yield from run_files(folder, "run", "--backend", "jax", "--parallel", kind, *SHORT, **variables)

    return group


def jax_processes(folder: Path) -> Entries:
    """Two processes of JAX with weights that neither has whole, gathered from what they saved.

    They train without dropout, for which JAX refuses the keys of several processes.
    """
    write_text(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--backend", "jax", "--parallel", "sharded", *SHORT, "--dropout", "0", "--out", "run"]
    options += ["--backend-option", f"coordinator=127.0.0.1:{port}", "--backend-option", "processes=2"]
    lines = [[*GPT2SPEC, *TRAIN, *options, "--backend-option", f"process={process}"] for process in range(2)]
    jobs = [subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True) for line in lines]
    errors = [job.communicate()[1] for job in jobs]
    if any(job.returncode for job in jobs):
        raise RuntimeError("\n".join(errors))
    command(folder, "convert", "run", "gathered", "--to", "gpt2spec")
    yield from files(folder / "gathered", folder)
    yield "metrics.jsonl", records(folder / "run" / "metrics.jsonl")


def tinygrad_run(*options: str) -> Callable[[Path], Entries]:
    """A run of tinygrad, of few windows: it compiles for long."""

    def group(folder: Path) -> Entries:
        write_text(folder)
        line = [*TRAIN[:8], "--dropout", "0.1", "--backend", "tinygrad", "--device", "CPU", "--steps", "3"]
        line += ["--eval-every", "3", "--out", "run", *options]
        yield "printed", command(folder, *line, errors=False)
        yield from files(folder / "run", folder)

    return group


TWO_DEVICES = ["--parallel", "data", "--backend-option", "devices=2"]
GROUPS: dict[str, Callable[[Path], Entries]] = {
    "numpy-run": numpy_run,
    "numpy-interrupted": interrupted_run,
    "numpy-demo": demo_use,
    "numpy-scores": scores,
    "numpy-data": data,
    "numpy-conformance": conformance,
    "torch-run": torch_run,
    "torch-ranks-data": torch_ranks("data"),
    "torch-ranks-sharded": torch_ranks("sharded"),
    "jax-run": jax_run,
    "jax-devices-data": jax_devices("data"),
    "jax-devices-sharded": jax_devices("sharded"),
    "jax-devices-tensor": jax_devices("tensor"),
    "jax-processes": jax_processes,
    "tinygrad-run": tinygrad_run("--sample-tokens", "4"),
    "tinygrad-devices": tinygrad_run("--sample-tokens", "0", *TWO_DEVICES),
}
