"""`SHA256SUMS` in folders of Hugging Face's format, written here or made by somebody else."""

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from checkpoint_models import CONFIG, random_parameters, same_bits, write
from safetensors.numpy import save_file

import gpt2spec
from gpt2spec.checkpoints.huggingface import config_to_json
from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.checkpoints.opening import DEMO, open_checkpoint
from gpt2spec.cli.main import main
from gpt2spec.errors import CheckpointError
from gpt2spec.tokenizer import byte_tokenizer

SUMS = "SHA256SUMS"
OPENAI = Path(__file__).parent / "openai_checkpoint"


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A folder of ours with all files that it may have."""
    config = CONFIG.replace(vocab_size=257)
    params, tokenizer = random_parameters(config), byte_tokenizer()
    training = TrainingState(params, params, {"step": 1, "tokenizer": tokenizer.id})
    save_checkpoint(tmp_path / "ours", config, params, training, tokenizer)
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "hf"), "--to", "hf", "--quiet"]) == 0
    return tmp_path / "hf"


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    return write(tmp_path / "theirs", "transformers", random_parameters())


def test_every_file_is_listed_as_sha256sum_lists_it(written: Path) -> None:
    names = sorted({path.name for path in written.iterdir()} - {SUMS})
    assert len(names) == 6
    assert (written / SUMS).read_text() == "".join(f"{digest(written / name)}  {name}\n" for name in names)
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=written, check=True)


def test_a_damaged_or_changed_file_is_named_with_what_to_do(written: Path) -> None:
    for path in sorted({*written.iterdir()} - {written / SUMS}):
        original = path.read_bytes()
        for content in (original[:-2] + b" }", original[: len(original) // 2], b""):
            path.write_bytes(content)
            with pytest.raises(CheckpointError, match=rf"{path.name} is damaged, or was changed .* delete {SUMS}$"):
                open_checkpoint(written)
        path.write_bytes(original)
    open_checkpoint(written)


def test_what_was_changed_on_purpose_is_read_without_sums(written: Path) -> None:
    described = json.loads((written / "config.json").read_text())
    (written / "config.json").write_text(json.dumps(described | {"attn_pdrop": 0.25}))
    with pytest.raises(CheckpointError, match=r"config.json is damaged"):
        open_checkpoint(written)
    (written / SUMS).unlink()
    assert open_checkpoint(written).config.attn_dropout == 0.25


def test_a_listed_file_that_is_missing_is_not_replaced_by_another(written: Path, theirs: Path) -> None:
    for gone, instead in (("merges.txt", "tokenizer.json"), ("model.safetensors", "pytorch_model.bin")):
        (written / gone).rename(theirs / gone)
        for _ in range(2):  # with nothing instead, and with another
            with pytest.raises(CheckpointError, match=rf"{gone} is missing, which {SUMS} lists|no checkpoint that can"):
                open_checkpoint(written)
            (written / instead).write_bytes(b"{}")
        (written / instead).unlink()
        (theirs / gone).rename(written / gone)
    open_checkpoint(written)


FORMS = {
    "text": "{digest}  {name}",
    "binary": "{digest} *{name}",
    "tag": "SHA256 ({name}) = {digest}",
    "of find": "{digest}  ./{name}",
    "upper case": "{upper} *{name}",
    "with comments": "# mine\n\n{digest}  {name}",
    "of Windows": "{digest} *{name}\r",
}


@pytest.mark.parametrize("form", FORMS)
def test_the_sums_of_others_are_compared(theirs: Path, form: str) -> None:
    def line(name: str, content: bytes) -> str:
        found = hashlib.sha256(content).hexdigest()
        return FORMS[form].format(digest=found, upper=found.upper(), name=name)

    content = (theirs / "model.safetensors").read_bytes()
    absent = [line(name, b"") for name in ("README.md", "tf_model.h5", "onnx/model.onnx", "pytorch_model.bin", SUMS)]
    (theirs / "notes.txt").write_text("not read, so that it may be another")
    lines = [*absent, line("notes.txt", b"one"), line("model.safetensors", content)]
    (theirs / SUMS).write_text("\n".join(lines) + "\n")
    assert same_bits(gpt2spec.load_checkpoint(theirs)[1], random_parameters())
    (theirs / "model.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"model.safetensors is damaged"):
        open_checkpoint(theirs)


def test_every_part_of_a_model_in_several_files_is_compared(tmp_path: Path) -> None:
    params = random_parameters()
    names = list(params)
    files = {name: f"model-{1 + i % 2}-of-2.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        save_file({name: params[name] for name in names if files[name] == file}, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    listed = sorted(path.name for path in tmp_path.iterdir())
    (tmp_path / SUMS).write_text("".join(f"{digest(tmp_path / name)} *{name}\n" for name in listed))
    assert same_bits(gpt2spec.load_checkpoint(tmp_path)[1], params)
    for name in listed:
        original = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
            open_checkpoint(tmp_path)
        (tmp_path / name).write_bytes(original)


def test_one_of_several_listed_forms_of_the_weights_is_enough(theirs: Path) -> None:
    weights = {name: torch.tensor(values) for name, values in random_parameters().items()}
    torch.save(weights, theirs / "pytorch_model.bin")
    names = ("model.safetensors", "pytorch_model.bin")
    (theirs / SUMS).write_text("".join(f"{digest(theirs / name)}  {name}\n" for name in names))
    for name in names:
        assert same_bits(gpt2spec.load_checkpoint(theirs)[1], random_parameters())
        (theirs / name).unlink()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has no hashes"),
        (b"# comments\n\n", "it has no hashes"),
        (b"sums\n", "line 1 is no hash"),
        (b"0" * 64 + b"  config.json\n" + b"0" * 63 + b"  model.safetensors\n", "line 2 is no hash"),
        (bytes(100), "line 1 is no hash"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_sums_that_cannot_be_read_are_refused(written: Path, content: bytes, reason: str) -> None:
    (written / SUMS).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{SUMS} .*{reason}"):
        open_checkpoint(written)


@pytest.mark.parametrize("gone", [("state.json",), ("state.json", "optimizer.safetensors")], ids="+".join)
def test_a_checkpoint_of_a_run_without_its_state_is_no_model(tmp_path: Path, gone: tuple[str, ...]) -> None:
    run = write(tmp_path / "run", "ours", random_parameters())
    folder = run / "checkpoints" / "step-00000001"
    for name in gone:
        (folder / name).unlink()
    for path in (run, folder, folder / "model.safetensors"):
        with pytest.raises(CheckpointError, match=r"damaged: state.json is missing"):
            open_checkpoint(path)


def test_openais_folder_may_have_sums(tmp_path: Path) -> None:
    folder = shutil.copytree(OPENAI, tmp_path / "124M")
    (folder / SUMS).write_text("".join(f"{digest(path)}  {path.name}\n" for path in folder.glob("model.*")))
    assert open_checkpoint(folder).format == "OpenAI"


def test_the_model_that_comes_along_has_sums_of_all_its_files() -> None:
    listed = dict(line.split("  ")[::-1] for line in (DEMO / SUMS).read_text().splitlines())
    assert listed == {path.name: digest(path) for path in DEMO.iterdir() if path.name != SUMS}
