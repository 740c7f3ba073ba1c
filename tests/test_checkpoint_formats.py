"""Every format is read and written with the same bits, other projects can read it, and misfits are refused by name."""

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from checkpoint_models import CONFIG, SOURCES, TARGETS, NanoGPT, random_parameters, read_llmc, same_bits, write
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch_file

import gpt2spec
from gpt2spec.checkpoints.convert import convert, hashes_of, verify
from gpt2spec.checkpoints.huggingface import config_to_json
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.errors import BackendError, CheckpointError
from gpt2spec.parameters import HostParams

TOKENS = np.random.default_rng(1).integers(0, CONFIG.vocab_size, (2, CONFIG.n_ctx))


def our_logits(params: HostParams, config: GPT2Config = CONFIG) -> np.ndarray:
    return gpt2spec.logits(gpt2spec.load_backend("numpy", dtype="float64"), config, params, TOKENS)


def deviation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).max() / np.abs(b).max())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("source", SOURCES)
def test_every_pair_of_formats_keeps_every_bit(tmp_path: Path, source: str, target: str) -> None:
    params = random_parameters()
    params["ln_f.bias"][:4] = [0.0, -0.0, 1e-42, -np.finfo(np.float32).max]
    reader = open_checkpoint(write(tmp_path / "source", source, params))
    hashes = convert(reader, tmp_path / "target", target)
    config, loaded = gpt2spec.load_checkpoint(tmp_path / "target")
    assert same_bits(loaded, params)
    assert config == CONFIG
    assert hashes_of(reader) == hashes == hashes_of(open_checkpoint(tmp_path / "target"))


def test_the_formats_are_told_apart_by_their_contents(tmp_path: Path) -> None:
    names = {"ours": "gpt2spec", "hf": "Hugging Face", "nanogpt": "nanoGPT", "llmc": "llm.c"}
    for source, name in names.items():
        path = write(tmp_path / f"no-telling-{source}", source, random_parameters())
        assert open_checkpoint(path).format == name
    weights = tmp_path / "no-telling-hf" / "model.safetensors"
    assert open_checkpoint(weights).format == "Hugging Face"  # the file itself means its folder


def test_what_is_no_checkpoint_is_refused_with_what_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("Once upon a time")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    for name in ("text", "empty", "folder"):
        with pytest.raises(CheckpointError, match=r"no checkpoint that can be read.*nanoGPT.*llm\.c"):
            open_checkpoint(tmp_path / name)
    with pytest.raises(CheckpointError, match="there is no run directory or checkpoint"):
        open_checkpoint(tmp_path / "absent")
    with pytest.raises(CheckpointError, match="it has no step 3"):
        open_checkpoint(write(tmp_path / "hf", "hf", random_parameters()), step=3)


def test_transformers_loads_what_is_written_and_computes_the_same(tmp_path: Path) -> None:
    params = random_parameters()
    folder = write(tmp_path / "hf", "hf", params)
    model, report = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    with torch.no_grad():
        theirs = model.double().eval()(torch.tensor(TOKENS)).logits.numpy()
    assert deviation(our_logits(params), theirs) < 1e-10
    assert model.generation_config.eos_token_id is None  # of 61 tokens nobody knows which ends a text


def test_transformers_ends_texts_at_end_of_text(tmp_path: Path) -> None:
    config = CONFIG.replace(vocab_size=257)
    folder = write(tmp_path / "hf", "hf", random_parameters(config), config)
    assert transformers.GPT2LMHeadModel.from_pretrained(folder).generation_config.eos_token_id == 256


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("sharded", [False, True], ids=["one-file", "sharded"])
def test_what_transformers_writes_is_read(tmp_path: Path, dtype: str, sharded: bool) -> None:
    config = transformers.GPT2Config.from_dict(config_to_json(CONFIG))
    model = transformers.GPT2LMHeadModel(config).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path, max_shard_size="10KB" if sharded else "1GB")
    assert (tmp_path / "model.safetensors.index.json").is_file() == sharded
    config, params = gpt2spec.load_checkpoint(tmp_path)
    assert config == CONFIG
    theirs = {name.removeprefix("transformer."): x for name, x in model.state_dict().items() if "lm_head" not in name}
    assert same_bits(params, {name: theirs[name].float().numpy() for name in params})


def test_a_configuration_without_rates_has_the_rates_transformers_would_give_it(tmp_path: Path) -> None:
    described = {key: value for key, value in config_to_json(CONFIG).items() if not key.endswith("_pdrop")}
    folder = write(tmp_path / "hf", "transformers", random_parameters())
    (folder / "config.json").write_text(json.dumps(described))
    theirs = transformers.GPT2Config.from_pretrained(folder)
    ours = open_checkpoint(folder).config
    assert (ours.dropout, ours.attn_dropout) == (theirs.resid_pdrop, theirs.attn_pdrop)


def torch_names(params: HostParams, prefix: str) -> dict[str, torch.Tensor]:
    """The names and masks that old versions of transformers wrote."""
    found = {f"{prefix}{name}": torch.tensor(x) for name, x in params.items()}
    for layer in range(CONFIG.n_layer):
        found[f"{prefix}h.{layer}.attn.bias"] = torch.ones(1, 1, CONFIG.n_ctx, CONFIG.n_ctx, dtype=torch.uint8)
        found[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return found


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("head", ["shared", "copied", "absent"])
@pytest.mark.parametrize("form", ["zip", "legacy", "sharded", "safetensors"])
def test_old_hugging_face_folders_are_read(tmp_path: Path, prefix: str, head: str, form: str) -> None:
    params = random_parameters()
    weights = torch_names(params, prefix)
    embedding = weights[f"{prefix}wte.weight"]
    if head != "absent":
        weights["lm_head.weight"] = embedding if head == "shared" and form != "safetensors" else embedding.clone()
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    if form == "safetensors":
        save_torch_file(weights, tmp_path / "model.safetensors")
    elif form == "sharded":
        half = sorted(weights)[: len(weights) // 2]
        files = {name: f"pytorch_model-0000{1 + (name in half)}-of-00002.bin" for name in weights}
        for file in set(files.values()):
            torch.save({name: x for name, x in weights.items() if files[name] == file}, tmp_path / file)
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    else:
        torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    assert same_bits(gpt2spec.load_checkpoint(tmp_path)[1], params)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_head_other_than_the_embedding_is_refused_by_name(tmp_path: Path, form: str) -> None:
    weights = torch_names(random_parameters(), "transformer.")
    weights["lm_head.weight"] = weights["transformer.wte.weight"].clone()
    weights["lm_head.weight"][3, 5] += 1
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    if form == "bin":
        torch.save(weights, tmp_path / "pytorch_model.bin")
    else:
        save_torch_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' differs from 'transformer.wte.weight'"):
        open_checkpoint(tmp_path)


REFUSED = [
    ("activation_function", "gelu"),
    ("scale_attn_by_inverse_layer_idx", True),
    ("scale_attn_weights", False),
    ("reorder_and_upcast_attn", True),
    ("add_cross_attention", True),
    ("tie_word_embeddings", False),
    ("n_inner", 3),
    ("model_type", "llama"),
    ("quantization_config", {"bits": 4}),
    ("pruned_heads", {"0": [1]}),
    ("n_ctx", 12),
    ("n_layer", "2"),
    ("n_head", 3),
    ("n_layer", 10**9),
    ("vocab_size", []),
]


@pytest.mark.parametrize(("key", "value"), REFUSED, ids=lambda value: str(value)[:30])
def test_a_configuration_gpt2_does_not_have_is_refused_by_name(tmp_path: Path, key: str, value: object) -> None:
    folder = write(tmp_path / "hf", "transformers", random_parameters())
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {key: value}))
    with pytest.raises(CheckpointError, match=key if value != 10**9 else "28 weights; a model of 1000000000 layers"):
        open_checkpoint(folder)


def test_an_inner_width_of_four_times_the_width_is_gpt2s(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", "transformers", random_parameters())
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(described | {"n_inner": 64}))
    assert open_checkpoint(folder).config == CONFIG


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "hf", "transformers", random_parameters())
    original = load_file(folder / "model.safetensors")
    changes: list[tuple[dict[str, Any], str]] = [
        ({"wpe.weight": original["wpe.weight"][:-1].copy()}, r"'wpe.weight' has shape \[23, 16\]; \[24, 16\] is"),
        ({"h.1.mlp.c_fc.bias": np.zeros(64, np.int8)}, r"'h.1.mlp.c_fc.bias' is I8; float32, .* can be read"),
        ({"h.1.mlp.c_fc.basis": np.zeros(4, np.float32)}, r"no weight 'h.1.mlp.c_fc.basis' \(did you mean 'h"),
        ({"score.weight": np.zeros((2, 16), np.float32)}, r"no weight 'score.weight'"),
        ({"ln_f.bias": None}, r"the weight 'ln_f.bias' is missing: 28 weights are expected"),
    ]
    for change, message in changes:
        weights = {name: x for name, x in (original | change).items() if x is not None}
        save_file(weights, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(folder)


def test_shards_must_hold_what_the_index_says(tmp_path: Path) -> None:
    params = random_parameters()
    (tmp_path / "config.json").write_text(json.dumps(config_to_json(CONFIG)))
    index = tmp_path / "model.safetensors.index.json"
    save_file(params, tmp_path / "a.safetensors")
    index.write_text(json.dumps({"weight_map": dict.fromkeys(params, "a.safetensors")}))
    assert same_bits(gpt2spec.load_checkpoint(tmp_path)[1], params)
    for changed, message in (
        ({"wpe.weight": "../a.safetensors"}, r"names '\.\./a.safetensors', which is no file in its folder"),
        ({"wpe.weight": "b.safetensors"}, r"a.safetensors has the weight 'wpe.weight', unlike"),
        ({"more": "a.safetensors"}, r"a.safetensors lacks the weight 'more', unlike"),
    ):
        index.write_text(json.dumps({"weight_map": dict.fromkeys(params, "a.safetensors") | changed}))
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path)


def nanogpt_checkpoint(model: NanoGPT, args: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The checkpoint that nanoGPT's train.py saves."""
    state = {f"{prefix}{name}": x for name, x in model.state_dict().items()}
    return {
        "model": state,
        "optimizer": model.optimizer().state_dict(),
        "model_args": args,
        "iter_num": 5,
        "best_val_loss": torch.tensor(3.2),
        "config": {"dataset": "shakespeare"},
    }


ARGS = {"n_layer": 2, "n_head": 2, "n_embd": 16, "block_size": 24, "vocab_size": 61, "dropout": 0.0}


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
@pytest.mark.parametrize("bias", [True, False])
def test_what_nanogpt_writes_is_read_and_computes_the_same(tmp_path: Path, bias: bool, prefix: str) -> None:
    args = ARGS | {"bias": bias}
    torch.manual_seed(0)
    model = NanoGPT(args, approximate="tanh").double()
    for x in model.parameters():
        x.data = torch.randn_like(x)
    torch.save(nanogpt_checkpoint(model, args, prefix), tmp_path / "ckpt.pt")
    config, params = gpt2spec.load_checkpoint(tmp_path / "ckpt.pt")
    assert config == CONFIG
    assert bias or all(not values.any() for name, values in params.items() if name.endswith(".bias"))
    with torch.no_grad():
        theirs = model(torch.tensor(TOKENS)).numpy()
    assert deviation(our_logits(params), theirs) < 1e-10


def test_nanogpt_loads_what_is_written_and_goes_on_training(tmp_path: Path) -> None:
    params = random_parameters()
    checkpoint = torch.load(write(tmp_path / "ckpt.pt", "nanogpt", params), weights_only=True)
    assert checkpoint["iter_num"] == 0 and checkpoint["best_val_loss"] == 1e9 and checkpoint["config"] == {}
    model = NanoGPT(checkpoint["model_args"], approximate="tanh")
    model.load_state_dict(checkpoint["model"], strict=True)
    with torch.no_grad():
        assert deviation(our_logits(params), model.double()(torch.tensor(TOKENS)).numpy()) < 1e-10
    optimizer = model.optimizer()
    optimizer.load_state_dict(checkpoint["optimizer"])
    model(torch.tensor(TOKENS)).logsumexp(-1).mean().backward()
    optimizer.step()
    assert all(state["step"] == 1 for state in optimizer.state.values())


def test_the_head_of_a_nanogpt_file_shares_the_embeddings_values(tmp_path: Path) -> None:
    checkpoint = torch.load(write(tmp_path / "ckpt.pt", "nanogpt", random_parameters()), weights_only=True)
    model = checkpoint["model"]
    assert model["lm_head.weight"].data_ptr() == model["transformer.wte.weight"].data_ptr()


def test_a_nanogpt_file_with_what_gpt2_does_not_have_is_refused_by_name(tmp_path: Path) -> None:
    model = NanoGPT(ARGS | {"bias": True})
    original = nanogpt_checkpoint(model, ARGS | {"bias": True})
    weights = original["model"]
    one_bias_less = {name: x for name, x in weights.items() if name != "transformer.ln_f.bias"}
    cases: list[tuple[Any, str]] = [
        (original | {"model": weights | {"lm_head.weight": torch.zeros(61, 16)}}, r"'lm_head.weight' differs from"),
        (original | {"model": one_bias_less}, r"'ln_f.bias' is missing"),
        (original | {"model": weights | {"transformer.h.0.extra": torch.zeros(1)}}, r"no weight .*h.0.extra"),
        (original | {"model": weights | {"transformer.ln_f.bias": "text"}}, r"'transformer.ln_f.bias' is no tensor"),
        (original | {"model_args": ARGS | {"n_embd": 32}}, r"wte.weight' has shape \[61, 16\]; \[61, 32\] is"),
        (original | {"model_args": {"n_layer": 2}}, "'model_args' lack 'n_head'"),
        (weights, "no checkpoint of nanoGPT: it has no 'model'"),
        ([1, 2], "no checkpoint of nanoGPT"),
    ]
    for contents, message in cases:
        torch.save(contents, tmp_path / "ckpt.pt")
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(tmp_path / "ckpt.pt")


def test_without_pytorch_its_files_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "ckpt.pt", "nanogpt", random_parameters())
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(BackendError, match=re.escape("pip install 'gpt2spec[torch]'")):
        open_checkpoint(path)
    assert open_checkpoint(tmp_path / "ckpt.pt-run").format == "gpt2spec"


def to_llmc(params: HostParams) -> HostParams:
    """Our weights in llm.c's names and shapes."""
    names = {"ln1": "ln_1", "qkv": "attn.c_attn", "attproj": "attn.c_proj", "ln2": "ln_2"}
    names |= {"fc": "mlp.c_fc", "fcproj": "mlp.c_proj"}
    found = {"wte": np.zeros((128, 16), np.float32), "wpe": params["wpe.weight"]}
    found["wte"][:61] = params["wte.weight"]
    for theirs, ours in names.items():
        for letter, last in (("w", "weight"), ("b", "bias")):
            layers = [params[f"h.{i}.{ours}.{last}"] for i in range(CONFIG.n_layer)]
            found[theirs + letter] = np.stack([x.T for x in layers])
    return found | {"lnfw": params["ln_f.weight"], "lnfb": params["ln_f.bias"]}


def test_an_independent_reader_of_llmc_reads_what_is_written(tmp_path: Path) -> None:
    params = random_parameters()
    sizes, weights = read_llmc(write(tmp_path / "gpt2.bin", "llmc", params))
    assert sizes == {"version": 3, "T": 24, "V": 61, "L": 2, "NH": 2, "C": 16, "Vp": 128}
    assert same_bits(weights, to_llmc(params))


def test_a_checksum_stands_where_llmc_has_zeros(tmp_path: Path) -> None:
    ours = write(tmp_path / "gpt2.bin", "llmc", random_parameters()).read_bytes()
    theirs = write(tmp_path / "theirs.bin", "llm.c", random_parameters())
    assert (ours[:32], ours[1024:]) == (theirs.read_bytes()[:32], theirs.read_bytes()[1024:])
    assert same_bits(gpt2spec.load_checkpoint(theirs)[1], random_parameters())
    assert (ours[32:48], ours[48:992]) == (b"gpt2spec SHA-256", bytes(944))
    assert ours[992:1024] == hashlib.sha256(ours[:992] + bytes(32) + ours[1024:]).digest()


@pytest.mark.parametrize(
    "place", [40, 500, 1000, 1024 + 61 * 64, -1], ids=["mark", "rest", "hash", "padding", "weight"]
)
def test_any_damage_of_an_llmc_file_of_ours_is_told(tmp_path: Path, place: int) -> None:
    path = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    data = bytearray(path.read_bytes())
    data[place] ^= 4
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"gpt2.bin is damaged, or was changed .* zeros over bytes 32 to 1023"):
        open_checkpoint(path)


@pytest.mark.parametrize("first", [1, 2], ids=["with-its-hash", "of-weights"])
def test_a_lost_block_of_an_llmc_file_of_ours_is_told(tmp_path: Path, first: int) -> None:
    path = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    data = bytearray(path.read_bytes())
    data[512 * first : 512 * 4] = bytes(512 * (4 - first))
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"gpt2.bin is damaged"):
        open_checkpoint(path)


@pytest.mark.parametrize("target", TARGETS)
def test_bfloat16_is_rounded_as_pytorch_rounds(tmp_path: Path, target: str) -> None:
    params = random_parameters()
    params["ln_f.bias"][:6] = [np.inf, -np.inf, 1 + 2**-8, 1 + 3 * 2**-8, 3.4e38, 1e-45]
    params["ln_f.weight"].view(np.uint32)[0] = 0x7FFFFFFF  # a NaN that adding to the bits would make -0
    reader = open_checkpoint(write(tmp_path / "source", "hf", params))
    verify(tmp_path / "target", convert(reader, tmp_path / "target", target, dtype="bfloat16"))
    loaded = gpt2spec.load_checkpoint(tmp_path / "target")[1]
    expected = {name: torch.tensor(x).to(torch.bfloat16).float().numpy() for name, x in params.items()}
    assert np.isnan(loaded["ln_f.weight"][0])
    loaded["ln_f.weight"][0] = expected["ln_f.weight"][0] = 0
    assert same_bits(loaded, expected)
    if target == "llmc":
        sizes, weights = read_llmc(tmp_path / "target")
        assert sizes["version"] == 5
        weights["lnfw"][0] = 0
        assert same_bits(weights, to_llmc(expected))


def test_a_damaged_llmc_header_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "gpt2.bin", "llmc", random_parameters())
    original = path.read_bytes()
    header = np.frombuffer(original[:1024], "<i4")
    for place, value, message in (
        (1, 4, r"of version 4; the versions that can be read are 3 \(float32\), 5 \(bfloat16\)"),
        (4, 3, "its header describes"),
        (4, 2**31 - 1, "its header is damaged: 2147483647 layers"),
        (5, 3, "multiple of n_head"),
        (6, -16, "n_embd is a whole number"),
        (7, 60, "its header is damaged: 2 layers, 61 tokens in 60 rows"),
    ):
        damaged = header.copy()
        damaged[place] = value
        path.write_bytes(damaged.tobytes() + original[1024:])
        with pytest.raises(CheckpointError, match=message):
            open_checkpoint(path)


@pytest.mark.parametrize("target", ["nanogpt", "llmc"])
def test_an_epsilon_the_other_project_does_not_have_is_refused(tmp_path: Path, target: str) -> None:
    config = CONFIG.replace(layer_norm_epsilon=1e-6)
    reader = open_checkpoint(write(tmp_path / "run", "ours", random_parameters(), config))
    with pytest.raises(CheckpointError, match="layer norm has epsilon 1e-05; this model's is 1e-06"):
        convert(reader, tmp_path / "target", target)
