"""llm.c's model files, `.bin`: a header of 256 int32, then every weight of all layers, kind by kind.

Source: `train_gpt2.c` and `write_model` of `train_gpt2.py` in github.com/karpathy/llm.c. Projections are stored
[out, in]; the vocabulary is padded with rows of zeros to a multiple of 128. The file does not say the layer norm's
epsilon (1e-5 in the code), dropout (there is none) or the tokenizer.

llm.c writes zeros after the first eight int32 of the header and never reads them. Our files have a checksum there: the
next four are the text "gpt2spec SHA-256", the last eight the SHA-256 of the file with zeros in their place. They stand
apart, so that no block of a disk that is lost takes both away and leaves the rest. llm.c's own files have none.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from gpt2spec.checkpoints.reader import CheckpointReader, Tensors, config_with, entry_of, fitting, is_projection
from gpt2spec.checkpoints.stored import StoredArray, encoded, read_errors
from gpt2spec.checkpoints.tokenizers import TokenizerRecord
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.files import HashedFile

MAGIC = 20240326
DTYPES = {3: "float32", 5: "bfloat16"}
"""The dtype of the weights, by the version in the header."""
HEADER_INTS, HEADER_BYTES = 256, 1024
VOCABULARY_MULTIPLE = 128
EPSILON = 1e-5
MOST_LAYERS = 10_000
_MARK = np.frombuffer(b"gpt2spec SHA-256", "<i4")
_MARK_PLACE, _HASH_PLACE = slice(8, 12), slice(248, 256)  # in the header
_HASH_OFFSET = 4 * _HASH_PLACE.start  # in bytes


class Kind(NamedTuple):
    """The weights of one kind, of all layers one after the other: the part of the name after `h.0.`."""

    name: str
    outputs: int  # in widths of the residual stream
    inputs: int  # the same; 0 for a vector


# llm.c's ln1w ln1b qkvw qkvb attprojw attprojb ln2w ln2b fcw fcb fcprojw fcprojb
KINDS = (
    Kind("ln_1.weight", 1, 0),
    Kind("ln_1.bias", 1, 0),
    Kind("attn.c_attn.weight", 3, 1),
    Kind("attn.c_attn.bias", 3, 0),
    Kind("attn.c_proj.weight", 1, 1),
    Kind("attn.c_proj.bias", 1, 0),
    Kind("ln_2.weight", 1, 0),
    Kind("ln_2.bias", 1, 0),
    Kind("mlp.c_fc.weight", 4, 1),
    Kind("mlp.c_fc.bias", 4, 0),
    Kind("mlp.c_proj.weight", 1, 4),
    Kind("mlp.c_proj.bias", 1, 0),
)


def is_llmc(head: bytes) -> bool:
    """Whether a file that begins so is one of llm.c's model files."""
    return len(head) >= 4 and int.from_bytes(head[:4], "little") == MAGIC


def open_llmc(path: Path) -> CheckpointReader:
    """Open a model file: its header and its size are checked, and its checksum where it has one."""
    with read_errors(path):
        header = np.fromfile(path, "<i4", HEADER_INTS)
        size = path.stat().st_size
    if header.size < HEADER_INTS or header[0] != MAGIC:
        raise CheckpointError(f"{path} does not begin with the header of an llm.c model, 256 int32 from {MAGIC} on")
    version, n_ctx, vocab_size, n_layer, n_head, n_embd, padded = (int(value) for value in header[1:8])
    if version not in DTYPES:
        known = ", ".join(f"{number} ({dtype})" for number, dtype in DTYPES.items())
        raise CheckpointError(f"{path} is a model file of version {version}; the versions that can be read are {known}")
    sizes = {"n_ctx": n_ctx, "vocab_size": vocab_size, "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd}
    config = config_with(path, sizes | {"layer_norm_epsilon": EPSILON, "dropout": 0.0})
    if padded < vocab_size or n_layer > MOST_LAYERS:
        raise CheckpointError(f"{path}: its header is damaged: {n_layer} layers, {vocab_size} tokens in {padded} rows")
    places = dict(_places(path, config, padded, DTYPES[version]))
    last = places["ln_f.bias"]
    if size != last.offset + last.nbytes:
        raise CheckpointError(f"{path} has {size:,} bytes; its header describes {last.offset + last.nbytes:,}")
    _verify(path, header)
    entries = {name: entry_of(name, stored, is_projection(name)) for name, stored in places.items()}
    return CheckpointReader(path, "llm.c", config, fitting(path, config, entries))


def order(config: GPT2Config) -> Iterator[str]:
    """The weights in the order of the file."""
    yield from ("wte.weight", "wpe.weight")
    for kind in KINDS:
        yield from (f"h.{layer}.{kind.name}" for layer in range(config.n_layer))
    yield from ("ln_f.weight", "ln_f.bias")


def write_llmc(
    file: BinaryIO, config: GPT2Config, tensors: Tensors, dtype: str, record: TokenizerRecord | None
) -> None:
    """Write the weights, which come in `order(config)`. The format has no place for a tokenizer."""
    del record
    hashed = HashedFile(file)
    padded = -(-config.vocab_size // VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
    version = next(number for number, name in DTYPES.items() if name == dtype)
    header = np.zeros(HEADER_INTS, "<i4")
    header[:8] = (MAGIC, version, config.n_ctx, config.vocab_size, config.n_layer, config.n_head, config.n_embd, padded)
    header[_MARK_PLACE] = _MARK
    hashed.write(header.data)
    for name, values in tensors:
        hashed.write(encoded(values.T if is_projection(name) else values, dtype).reshape(-1).data)
        if name == "wte.weight":
            padding = np.zeros((padded - config.vocab_size) * config.n_embd, np.float32)
            hashed.write(encoded(padding, dtype).data)
    file.seek(_HASH_OFFSET)
    file.write(hashed.sha256.digest())


def _verify(path: Path, header: np.ndarray) -> None:
    """Raise where a file has a checksum, or some of one, that is not its own."""
    if not np.array_equal(header[_MARK_PLACE], _MARK) and not header[_HASH_PLACE].any():
        return
    expected = header[_HASH_PLACE].tobytes()
    header[_HASH_PLACE] = 0
    hashed = hashlib.sha256(header.data)
    with read_errors(path), path.open("rb") as file:
        file.seek(HEADER_BYTES)
        hashlib.file_digest(file, lambda: hashed)
    if hashed.digest() != expected:
        raise CheckpointError(
            f"{path} is damaged, or was changed since gpt2spec wrote it: it does not match the checksum in its header; "
            f"if that was meant, write zeros over bytes 32 to {HEADER_BYTES - 1}"
        )


def _places(path: Path, config: GPT2Config, padded: int, dtype: str) -> Iterator[tuple[str, StoredArray]]:
    """Every weight: our name and its place."""
    D = config.n_embd
    offset = HEADER_BYTES

    def stored(*shape: int) -> StoredArray:
        nonlocal offset
        array = StoredArray(path, offset, dtype, shape)
        offset += array.nbytes
        return array

    wte = stored(padded, D)
    yield "wte.weight", StoredArray(path, wte.offset, dtype, (config.vocab_size, D))
    yield "wpe.weight", stored(config.n_ctx, D)
    for kind in KINDS:
        shape = (kind.outputs * D, kind.inputs * D) if kind.inputs else (kind.outputs * D,)
        for layer in range(config.n_layer):
            yield f"h.{layer}.{kind.name}", stored(*shape)
    yield "ln_f.weight", stored(D)
    yield "ln_f.bias", stored(D)
