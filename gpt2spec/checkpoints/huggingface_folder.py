"""This module reads and writes folders of Hugging Face `transformers`, with `config.json` and the weights.

The weights are in `model.safetensors`, in older folders in `pytorch_model.bin`, or in several files of either kind that
an `.index.json` lists. Their names are ours, in most folders with `transformer.` before them. Folders that are written
here have a `SHA256SUMS`, by which damage is detected.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from gpt2spec.checkpoints.huggingface import config_from_json, config_to_json, special_tokens
from gpt2spec.checkpoints.reader import TRANSFORMER, CheckpointReader, Entry, Tensors, drop_tied_head, entry_of, fitting
from gpt2spec.checkpoints.safetensors_file import open_safetensors, write_safetensors
from gpt2spec.checkpoints.stored import read_errors
from gpt2spec.checkpoints.sums import SUMS, recorded_sums, verify_chosen, verify_listed, write_sums
from gpt2spec.checkpoints.tokenizers import TokenizerRecord, tokenizer_in
from gpt2spec.checkpoints.torch_file import TorchFile
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError
from gpt2spec.parameters import weight_table
from gpt2spec.tokenizer import write_tokenizer
from gpt2spec.tokenizer.saved import BOTH, MERGES, READABLE, TOKENIZER_FILES

CONFIG, SAFETENSORS, TORCH = "config.json", "model.safetensors", "pytorch_model.bin"
GENERATION_CONFIG = "generation_config.json"
INDEX = ".index.json"
WEIGHTS = (SAFETENSORS, f"{SAFETENSORS}{INDEX}", TORCH, f"{TORCH}{INDEX}")
"""Files of weights and indices of several files, in the order in which `transformers` prefers them."""
FILES = frozenset({CONFIG, SAFETENSORS, GENERATION_CONFIG, SUMS, *TOKENIZER_FILES})
"""The files that a folder written here may have."""
_MASK = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")  # buffers of older versions


def weights_file(folder: Path) -> Path | None:
    """The file of weights, or the index of several, that `transformers` would take; None where there is none."""
    return next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)


def open_folder(folder: Path) -> CheckpointReader:
    """Open a folder that has a `weights_file`. Its files are verified by its `SHA256SUMS`, if it has one."""
    weights = weights_file(folder)
    assert weights is not None
    sums = recorded_sums(folder) if (folder / SUMS).exists() else {}
    for forms in (WEIGHTS, (BOTH, MERGES)):
        verify_chosen(folder, forms, sums)
    verify_listed(folder, sorted({weights.name, *FILES - {SAFETENSORS, SUMS}, *READABLE}), sums)
    config = config_from_json(folder / CONFIG)
    found, tokenizer = _contents(weights) if weights.suffix != ".json" else (_sharded(weights, sums), None)
    entries: dict[str, Entry] = {}
    for entry in found:
        name = entry.name.removeprefix(TRANSFORMER)
        if _MASK.fullmatch(name):
            continue
        if name in entries:
            raise CheckpointError(f"{weights} has the weight {name!r} twice")
        entries[name] = entry
    drop_tied_head(weights, entries)
    return CheckpointReader(
        folder, "Hugging Face", config, fitting(weights, config, entries), tokenizer or tokenizer_in(folder)
    )


def write_folder(
    folder: Path, config: GPT2Config, tensors: Tensors, dtype: str, record: TokenizerRecord | None
) -> None:
    """Fill an empty folder. The weights come in the order of their table, and `record` may have the tokenizer."""
    metadata = {"format": "pt"} | ({} if record is None else {"tokenizer": record.id})
    with (folder / SAFETENSORS).open("wb") as file:
        sha256 = write_safetensors(file, weight_table(config), tensors, dtype, metadata)
    if record is not None and record.tokenizer is not None:
        write_tokenizer(folder, record.tokenizer, config.n_ctx)
    generation = {"_from_model_config": True, **special_tokens(config)}
    for name, value in ((GENERATION_CONFIG, generation), (CONFIG, config_to_json(config, dtype))):
        (folder / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    write_sums(folder, {SAFETENSORS: sha256})


def _contents(path: Path) -> tuple[list[Entry], str | None]:
    """The tensors of one file under its own names, and the tokenizer's id if the file, being ours, records it."""
    if path.suffix == ".safetensors":
        opened = open_safetensors(path)
        entries = [entry_of(name, stored) for name, stored in opened.tensors.items()]
        return entries, opened.metadata.get("tokenizer")
    file = TorchFile(path)
    if not isinstance(file.contents, dict):
        raise CheckpointError(f"{path} holds a {type(file.contents).__name__}; a dict of weights is expected")
    return [file.entry(str(name), (name,)) for name in file.contents], None


def _sharded(index: Path, sums: Mapping[str, str]) -> list[Entry]:
    """The tensors of all files that an index lists. Each file must hold exactly the tensors that the index says."""
    with read_errors(index):
        weight_map = json.loads(index.read_text(encoding="utf-8"))
    weight_map = weight_map.get("weight_map") if isinstance(weight_map, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{index} has no 'weight_map' from weights to files")
    entries = []
    for name in sorted(set(weight_map.values())):
        if name != Path(name).name:
            raise CheckpointError(f"{index} names {name!r}, which is no file in its folder")
        verify_listed(index.parent, [name], sums)
        found, _ = _contents(index.parent / name)
        expected = {weight for weight, file in weight_map.items() if file == name}
        for weight in expected ^ {entry.name for entry in found}:
            where = "lacks" if weight in expected else "has"
            raise CheckpointError(f"{index.parent / name} {where} the weight {weight!r}, unlike {index.name}")
        entries += found
    return entries
