"""Malicious and damaged files never run a program, and never give other weights without an error.

Files with checksums (all that are written here, OpenAI's weights, PyTorch's zip archives) are refused or right. Folders
written by `transformers` and files written by llm.c have none, so a flipped bit in a weight cannot be noticed. One in
the structure is noticed.
"""

import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_models import CONFIG, FOREIGN, random_parameters, same_bits, write
from safetensors.numpy import save

import gpt2spec
from gpt2spec.checkpoints.huggingface import config_to_json
from gpt2spec.checkpoints.native import open_native
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.parameters import HostParams


class Hostile:
    """An object whose pickle runs a command when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
@pytest.mark.parametrize("where", ["ckpt.pt", "pytorch_model.bin"])
def test_no_program_in_a_pickle_is_ever_run(tmp_path: Path, where: str, form: str) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / where
    contents = {"model": {"wte.weight": Hostile(mark)}, "model_args": {}}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(contents))
    else:
        torch.save(contents, path, _use_new_zipfile_serialization=form == "zip")
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    with pytest.raises(CheckpointError, match="is refused: it is no file of weights alone") as caught:
        open_checkpoint(path)
    assert not mark.exists()
    assert "weights_only" not in str(caught.value)  # torch's own message tells how to run it
    torch.load(path, weights_only=False) if form != "bare pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def header(described: dict[str, Any], values: int) -> bytes:
    text = json.dumps(described).encode()
    return struct.pack("<Q", len(text)) + text + bytes(values)


TWICE = b'{"wte.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
HOSTILE_HEADERS = {
    "overlapping": header({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, 12),
    "with a gap": header({"a": entry(0, 8, [2]), "b": entry(12, 20, [2])}, 20),
    "beyond the end": header({"a": entry(0, 800, [200])}, 8),
    "not filling the file": header({"a": entry(0, 8, [2])}, 12),
    "wrong size for the shape": header({"a": entry(0, 8, [3])}, 8),
    "shape overflowing": header({"a": entry(0, 8, [2**62, 2**62])}, 8),
    "negative": header({"a": entry(-8, 0, [2])}, 8),
    "a huge header": struct.pack("<Q", 2**63) + b"{}",
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "no JSON": struct.pack("<Q", 4) + b"{{{{",
    "deeply nested": struct.pack("<Q", 100_000) + b"[" * 100_000,
    "not a table": struct.pack("<Q", 2) + b"[]",
    "a name twice": struct.pack("<Q", 2 * len(TWICE) + 1) + TWICE + b"," + TWICE[1:] + b"}" + bytes(4),
    "empty": b"",
}


@pytest.mark.parametrize("name", HOSTILE_HEADERS)
def test_a_hostile_safetensors_header_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    (tmp_path / "model.safetensors").write_bytes(HOSTILE_HEADERS[name])
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read"):
        open_checkpoint(tmp_path)


def test_a_name_that_comes_twice_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    (tmp_path / "model.safetensors").write_bytes(HOSTILE_HEADERS["a name twice"])
    with pytest.raises(CheckpointError, match=r"'wte.weight' comes twice"):
        open_checkpoint(tmp_path)


def test_a_tensor_with_fewer_values_than_its_shape_is_refused(tmp_path: Path) -> None:
    """Such a file of a few bytes could ask for any amount of memory."""
    weights = {name: torch.tensor(x) for name, x in random_parameters().items()}
    weights["wte.weight"] = torch.zeros(1).expand(61, 16)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    with pytest.raises(CheckpointError, match=r"'wte.weight' has fewer values than its shape says"):
        open_checkpoint(tmp_path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    """It could be a thousand times larger than it looks, and its compressed bytes would be mapped as values."""
    original = write(tmp_path / "ckpt.pt", "nanogpt", random_parameters())
    with zipfile.ZipFile(original) as stored, zipfile.ZipFile(tmp_path / "packed.pt", "w") as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name), zipfile.ZIP_DEFLATED if "wte" in name else zipfile.ZIP_STORED)
    with pytest.raises(CheckpointError, match=r"'archive/data/wte.weight' in it is compressed"):
        open_checkpoint(tmp_path / "packed.pt")


def test_an_archive_whose_directory_is_lost_is_damaged(tmp_path: Path) -> None:
    """It is recognised by its first bytes, so that it is never read without its checksums."""
    path = write(tmp_path / "ckpt.pt", "nanogpt", random_parameters())
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(CheckpointError, match=r"ckpt.pt is damaged: 'File is not a zip file'"):
        open_checkpoint(path)


def test_names_in_a_damaged_archive_are_shown_in_one_line(tmp_path: Path) -> None:
    params = random_parameters()
    path = write(tmp_path / "ckpt.pt", "nanogpt", params)
    data = path.read_bytes().replace(b"data/ln_f.bias", b"data/ln_f\nbias")
    path.write_bytes(data.replace(params["ln_f.bias"].tobytes(), bytes(64)))
    with pytest.raises(CheckpointError, match=r"'archive/data/ln_f\\nbias' in it does not match its checksum"):
        open_checkpoint(path)


def files_of(path: Path, source: str) -> list[Path]:
    """The files of a checkpoint."""
    folder = path / "checkpoints" / "step-00000001" if source == "ours" else path
    return sorted(folder.iterdir()) if folder.is_dir() else [path]


def damage(original: bytes, rng: np.random.Generator) -> bytes:
    """Flip a bit, half of the time in the first kilobytes, or cut the end off."""
    kind = rng.integers(3)
    if kind == 0:
        return original[: rng.integers(len(original))]
    damaged = bytearray(original)
    place = rng.integers(len(original) if kind == 1 else min(4096, len(original)))
    damaged[place] ^= 1 << int(rng.integers(8))
    return bytes(damaged)


def damaged_loads(path: Path, file: Path, times: int) -> list[tuple[GPT2Config, HostParams]]:
    """The results of loading a file damaged in so many ways, where it is not refused with a `CheckpointError`."""
    original, loaded = file.read_bytes(), []
    rng = np.random.default_rng(0)
    for _ in range(times):
        file.write_bytes(damage(original, rng))
        try:
            loaded.append(gpt2spec.load_checkpoint(path))
        except CheckpointError as error:
            assert "\n" not in str(error)
    file.write_bytes(original)
    return loaded


@pytest.mark.parametrize(("source", "times"), [("ours", 60), ("hf", 60), ("nanogpt", 120), ("llmc", 120)])
def test_damage_of_what_is_written_here_is_noticed_or_harmless(tmp_path: Path, source: str, times: int) -> None:
    params = random_parameters()
    path = write(tmp_path / "model", source, params)
    files = files_of(path, source)
    assert len(files) == {"ours": 5, "hf": 4}.get(source, 1)
    for file in files:
        loaded = damaged_loads(path, file, times)
        assert all(config == CONFIG and same_bits(each, params) for config, each in loaded), file
        if file.name in ("model.safetensors", "config.json", "model"):
            assert len(loaded) < times / 4


@pytest.mark.parametrize("source", FOREIGN)
def test_damage_of_a_file_without_checksums_is_refused_or_alters_few_values(tmp_path: Path, source: str) -> None:
    """A flipped bit of a value changes that value; one of the structure is refused, or gives another that fits."""
    params = random_parameters()
    path = write(tmp_path / "model", source, params)
    for _, each in damaged_loads(path, files_of(path, source)[-1], 120):
        assert list(each) == list(params)
        altered = sum(int((each[n].view(np.uint32) != params[n].view(np.uint32)).sum()) for n in params)
        assert altered <= 1


def test_what_transformers_cannot_have_written_raises_nothing_unforeseen(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", "transformers", random_parameters())
    for text in (b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"null", b'{"n_embd": null}', b"[" * 100_000):
        (folder / "config.json").write_bytes(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            open_checkpoint(folder)


def test_a_file_cut_off_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    reader = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match="ends early"):
        reader.read("ln_f.bias")


OURS = ["model.safetensors", "config.json", "optimizer.safetensors", "state.json"]


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="it is a file whose first bytes Linux does not give")
@pytest.mark.parametrize(("source", "name"), [*(("ours", name) for name in OURS), *(("hf", name) for name in OURS[:2])])
def test_a_file_that_the_disk_does_not_give_is_named(tmp_path: Path, source: str, name: str) -> None:
    path = write(tmp_path / "model", source, random_parameters())
    file = files_of(path, source)[0].with_name(name)
    file.unlink()
    file.symlink_to("/proc/self/mem")
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read: Input/output error"):
        open_native(file.parent).training() if name == "optimizer.safetensors" else open_checkpoint(path)


def test_a_path_that_no_system_takes_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"x+ cannot be read: File name too long"):
        open_checkpoint("x" * 300)


def test_dtypes_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    params = random_parameters()
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    (tmp_path / "model.safetensors").write_bytes(save(params | {"wte.weight": np.zeros((61, 16), np.int32)}))
    with pytest.raises(CheckpointError, match=r"'wte.weight' is I32; float32"):
        open_checkpoint(tmp_path)
