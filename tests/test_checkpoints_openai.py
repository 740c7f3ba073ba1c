"""OpenAI's TensorFlow checkpoints: one that TensorFlow 2 wrote, in `openai_checkpoint/`, and damaged copies of it."""

import json
import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from checkpoint_models import CONFIG, TARGETS, same_bits

import gpt2spec
from gpt2spec.checkpoints.convert import convert
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.checkpoints.tensor_bundle import masked, open_bundle
from gpt2spec.errors import CheckpointError
from gpt2spec.parameters import HostParams, weight_table

WRITTEN = Path(__file__).parent / "openai_checkpoint"
INDEX, DATA = "model.ckpt.index", "model.ckpt.data-00000-of-00001"


def value_of(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value that `openai_checkpoint/write.py` gives to the tensor with OpenAI's name."""
    ramp = np.arange(np.prod(shape)) * 7919 + sum(name.encode()) * 104729
    return ((ramp % 2001 - 1000) / 1000).astype(np.float32).reshape(shape)


def expected() -> HostParams:
    def theirs(name: str) -> str:
        if name in ("wte.weight", "wpe.weight"):
            return f"model/{name[:3]}"
        last = {"weight": "g" if "ln_" in name else "w", "bias": "b"}
        *parts, kind = name.replace("h.", "h").split(".")
        return "/".join(["model", *parts, last[kind]])

    return {w.name: value_of(theirs(w.name), w.shape) for w in weight_table(CONFIG)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "124M"
    shutil.copytree(WRITTEN, path, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    return path


def test_what_tensorflow_wrote_is_read() -> None:
    config, params = gpt2spec.load_checkpoint(WRITTEN)
    assert config == CONFIG.replace(dropout=0.1)  # the file does not say
    assert same_bits(params, expected())
    assert open_checkpoint(WRITTEN).format == "OpenAI"


@pytest.mark.parametrize("target", TARGETS)
def test_it_goes_into_every_format_bit_for_bit(tmp_path: Path, target: str) -> None:
    convert(open_checkpoint(WRITTEN), tmp_path / "target", target)
    assert same_bits(gpt2spec.load_checkpoint(tmp_path / "target")[1], expected())


def test_checksums_are_masked_as_leveldb_masks_them() -> None:
    """The check value of CRC-32C, and the same masked: rotated right by 15 bits plus 0xa282ead8."""
    crc = google_crc32c.value(b"123456789")
    assert crc == 0xE3069283
    assert masked(crc) == ((0xE3069283 >> 15 | (0xE3069283 & 0x7FFF) << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_any_damaged_byte_is_noticed(folder: Path, name: str) -> None:
    """The index has checksums but in its footer, whose every bit matters or is padding; so do the values."""
    original = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.integers(len(original), size=60):
        damaged = bytearray(original)
        damaged[place] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(damaged)
        try:
            _, params = gpt2spec.load_checkpoint(folder)
        except CheckpointError:
            continue
        assert name == INDEX and place >= len(original) - 48  # a footer's padding
        assert same_bits(params, expected())


@pytest.mark.parametrize("name", [INDEX, DATA])
def test_any_truncation_is_noticed(folder: Path, name: str) -> None:
    original = (folder / name).read_bytes()
    for length in (0, 1, 47, len(original) // 2, len(original) - 48, len(original) - 1):
        (folder / name).write_bytes(original[:length])
        with pytest.raises(CheckpointError):
            gpt2spec.load_checkpoint(folder)
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read|there is no model"):
        gpt2spec.load_checkpoint(folder)


def test_a_damaged_weight_is_named(folder: Path) -> None:
    values = bytearray((folder / DATA).read_bytes())
    values[5000] ^= 1
    (folder / DATA).write_bytes(values)
    with pytest.raises(CheckpointError, match=r"the tensor 'model/h0/mlp/c_fc/w' does not match"):
        gpt2spec.load_checkpoint(folder)


def test_hyperparameters_that_do_not_fit_are_named(folder: Path) -> None:
    hparams = json.loads((folder / "hparams.json").read_text())
    for change, message in (
        ({"n_ctx": 25}, r"'model/wpe' has shape \[24, 16\]; \[25, 16\] is expected"),
        ({"n_embd": 32}, r"'model/wte' has shape \[61, 16\]; \[61, 32\] is expected"),
        ({"n_layer": 1}, r"no weight 'model/h1/attn/c_attn/b'"),
        ({"n_layer": 3}, r"'h.2.ln_1.weight' and 11 more is missing"),
        ({"n_layer": 10**12}, "28 weights; a model of 1000000000000 layers"),
        ({"n_head": "2"}, "n_head is a whole number"),
    ):
        (folder / "hparams.json").write_text(json.dumps(hparams | change))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)
    del hparams["n_vocab"]
    (folder / "hparams.json").write_text(json.dumps(hparams))
    with pytest.raises(CheckpointError, match=r"hparams.json lacks 'n_vocab'"):
        open_checkpoint(folder)


def test_the_pointer_may_be_missing_and_may_not_be_wrong(folder: Path) -> None:
    pointer = folder / "checkpoint"
    pointer.write_text('model_checkpoint_path: "/home/somebody/model.ckpt"\n')
    assert same_bits(gpt2spec.load_checkpoint(folder)[1], expected())
    pointer.write_text('model_checkpoint_path: "model-1000"\n')
    with pytest.raises(CheckpointError, match=r"there is no model-1000.index beside it"):
        open_checkpoint(folder)
    for text in ("nonsense", 'model_checkpoint_path: "model.ckpt\n"'):
        pointer.write_text(text)
        with pytest.raises(CheckpointError, match="does not say 'model_checkpoint_path"):
            open_checkpoint(folder)
    pointer.unlink()
    assert same_bits(gpt2spec.load_checkpoint(folder)[1], expected())
    shutil.copy(folder / INDEX, folder / "other.index")
    with pytest.raises(CheckpointError, match=r"2 .index files"):
        open_checkpoint(folder)


def test_an_index_of_many_blocks_with_shared_prefixes_and_two_files_of_values(tmp_path: Path) -> None:
    """Blocks put together here by LevelDB's description; that TensorFlow's are read is tested above."""
    names = [f"model/{'x' * 40}/{i:03d}" for i in range(300)]
    values = np.arange(300 * 6, dtype="<f4").reshape(300, 2, 3)
    index = bundle_index(dict(zip(names, values, strict=True)), block_entries=7, restart_every=3)
    (tmp_path / "m.index").write_bytes(index)
    (tmp_path / "m.data-00000-of-00002").write_bytes(values[:150].tobytes())
    (tmp_path / "m.data-00001-of-00002").write_bytes(values[150:].tobytes())
    tensors = open_bundle(tmp_path / "m.index")
    assert sorted(tensors) == names
    assert all(np.array_equal(tensors[name].read(), each) for name, each in zip(names, values, strict=True))


def varint(value: int) -> bytes:
    groups = bytearray()
    while value >= 0x80:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def block(entries: list[tuple[bytes, bytes]], restart_every: int) -> bytes:
    data, restarts, last = b"", [], b""
    for i, (key, value) in enumerate(entries):
        shared = 0
        if i % restart_every == 0:
            restarts.append(len(data))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        data += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    data += b"".join(x.to_bytes(4, "little") for x in [*restarts, len(restarts)])
    return data + b"\0" + masked(google_crc32c.value(data + b"\0")).to_bytes(4, "little")


def bundle_index(tensors: dict[str, np.ndarray], block_entries: int, restart_every: int) -> bytes:
    entries = [(b"", b"\x08\x02")]
    half = len(tensors) // 2
    for i, (name, values) in enumerate(tensors.items()):
        dims = b"".join(b"\x12" + varint(2) + b"\x08" + varint(size) for size in values.shape)
        size, checksum = values.nbytes, masked(google_crc32c.value(values.tobytes()))
        entry = b"\x08\x01\x12" + varint(len(dims)) + dims + b"\x18" + varint(i // half)
        entry += b"\x20" + varint(i % half * size) + b"\x28" + varint(size)
        entry += b"\x35" + checksum.to_bytes(4, "little")
        entries.append((name.encode(), entry))
    table, handles = b"", []
    for begin in range(0, len(entries), block_entries):
        part = entries[begin : begin + block_entries]
        data = block(part, restart_every)
        handles.append((part[-1][0], varint(len(table)) + varint(len(data) - 5)))
        table += data
    places = []
    for last in (block([], 1), block(handles, 1)):
        places.append(varint(len(table)) + varint(len(last) - 5))
        table += last
    return table + b"".join(places).ljust(40, b"\0") + 0xDB4775248B80FB57.to_bytes(8, "little")
