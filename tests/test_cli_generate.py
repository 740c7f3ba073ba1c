"""`gpt2spec generate` turns its options into settings, prints texts, and refuses mistakes."""

import argparse
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spelling_models import CONFIG, spelling_parameters, write_run

import gpt2spec
from gpt2spec.cli import generate
from gpt2spec.cli.generate_options import TEMPERATURE
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.parameters import initial_parameters
from gpt2spec.tokenizer import byte_tokenizer

TEXT = "naïve café ≥ 2 €.\nOK"
"""The text of the spelling model has characters of one, two and three bytes; each byte is a token."""
END = byte_tokenizer().end_of_text


@pytest.fixture(scope="module")
def speller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "speller", spelling_parameters(TEXT))


@pytest.fixture
def rows(run_generate: Any) -> Any:
    """The objects that `--json` prints."""

    def call(folder: Path, *arguments: object) -> list[dict[str, Any]]:
        code, out, err = run_generate(folder, "--json", *arguments)
        assert (code, err) == (0, "")
        return [json.loads(line) for line in out.splitlines()]

    return call


# What is asked for.


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--max-new-tokens 7", {"max_new_tokens": 7}),
        ("--temperature 0.5 --top-k 3", {"temperature": 0.5, "top_k": 3}),
        ("--top-p 0.9 --top-p-rule openai", {"top_p": 0.9, "top_p_rule": "openai"}),
        ("--min-p 0.1 --repetition-penalty 1.5", {"min_p": 0.1, "repetition_penalty": 1.5}),
        ("--beams 3 --samples 2 --length-penalty 1", {"beams": 3, "samples": 2, "length_penalty": 1.0}),
        ("--beams 2 --early-stopping", {"beams": 2, "early_stopping": True}),
        ("--seed 4 --batch-size 2", {"seed": 4, "batch_size": 2}),
        ("--stop a --stop bc", {"stop": ("a", "bc")}),
        ("--stop-token 5 --stop-token 6", {"stop_tokens": (5, 6, END)}),
        ("--ignore-end-of-text", {"stop_tokens": ()}),
        ("--overflow slide", {"overflow": "slide", "max_new_tokens": 64}),
        ("--json --logprobs 2", {"alternatives": 2}),
    ],
)
def test_options_become_settings(
    arguments: str, expected: dict[str, Any], babbler: Path, run_generate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[GenerateOptions] = []
    monkeypatch.setattr("gpt2spec.cli.generate_output.show", lambda *given, **_: asked.append(given[3]))
    assert run_generate(babbler, *arguments.split())[0] == 0
    own = {"max_new_tokens": CONFIG.n_ctx - 1, "stop_tokens": (END,)}
    if "beams" not in expected:
        own["temperature"] = TEMPERATURE
    assert asked == [GenerateOptions(**{**own, **expected})]


def test_help_tells_the_defaults_of_the_library() -> None:
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    told = {action.dest: re.search(r"default: ([\d.]+)", action.help or "") for action in parser._actions}
    values = {name: float(match[1]) for name, match in told.items() if match}
    assert values.pop("temperature") == TEMPERATURE
    assert len(values) == 7
    assert values == {name: getattr(GenerateOptions, name) for name in values}


def test_default_length_is_what_fits_beside_the_longest_prompt(babbler: Path, rows: Any) -> None:
    texts = rows(babbler, "--prompt", "a", "--prompt", "b" * 40, "--ignore-end-of-text")
    assert [len(text["tokens"]) for text in texts] == [8, 8]


def test_texts_are_those_of_the_library(babbler: Path, rows: Any) -> None:
    params = initial_parameters(CONFIG, seed=0)
    settings = {"max_new_tokens": 6, "temperature": 0.7, "top_k": 20, "samples": 2, "seed": 3, "alternatives": 2}
    backend, tokenizer = gpt2spec.load_backend("numpy"), byte_tokenizer()
    expected = gpt2spec.generate(backend, CONFIG, params, ["ab", "c"], tokenizer=tokenizer, **settings)
    arguments = "--prompt ab --prompt c --max-new-tokens 6 --temperature 0.7 --top-k 20 --samples 2 --seed 3"
    found = rows(babbler, *arguments.split(), "--logprobs", 2)
    assert found == json.loads(json.dumps([{k: v for k, v in vars(e).items() if v is not None} for e in expected]))
    assert list(found[0]) == ["prompt", "sample", "text", "tokens", "logprobs", "finish_reason", "alternatives"]


def test_text_that_ends_early_waits_for_those_before(rows: Any, babbler: Path) -> None:
    """Texts of one batch end at different tokens, and are printed in order."""
    stops = [word for token in range(5) for word in ("--stop-token", token)]
    texts = rows(babbler, "--samples", 12, *stops)
    assert [text["sample"] for text in texts] == list(range(12))
    lengths = [len(text["tokens"]) for text in texts]
    assert lengths != sorted(lengths) and {text["finish_reason"] for text in texts} == {"stop", "length"}


def test_beams_have_scores_and_no_alternatives(babbler: Path, rows: Any) -> None:
    best, second = rows(babbler, "--prompt", "ab", "--beams", 3, "--samples", 2, "--max-new-tokens", 4)
    assert list(best) == ["prompt", "sample", "text", "tokens", "logprobs", "finish_reason", "score"]
    assert best["score"] == pytest.approx(sum(best["logprobs"])) and best["score"] >= second["score"]


def test_end_of_text_ends_unless_told_otherwise(speller: Path, rows: Any) -> None:
    (text,) = rows(speller)
    assert (text["text"], text["finish_reason"], len(text["tokens"])) == (TEXT, "stop", len(TEXT.encode()))
    (text,) = rows(speller, "--ignore-end-of-text", "--max-new-tokens", len(TEXT.encode()) + 2)
    assert (text["text"], text["finish_reason"]) == (TEXT + 2 * "<|endoftext|>", "length")


def test_stop_strings_are_literal(speller: Path, run_generate: Any) -> None:
    assert run_generate(speller, "--stop", "é ≥ ")[1] == "naïve caf\n"
    assert run_generate(speller, "--stop", "\n")[1] == "naïve café ≥ 2 €.\n"
    assert run_generate(speller, "--stop", r"\n")[1] == TEXT + "\n"


def test_special_tokens_are_read_on_request_alone(babbler: Path, rows: Any) -> None:
    prompt = ("--prompt", "<|endoftext|>", "--max-new-tokens", 4)
    assert rows(babbler, *prompt, "--special") == rows(babbler, "--max-new-tokens", 4) != rows(babbler, *prompt)


# Prompts from files.


def test_file_has_a_prompt_a_line(babbler: Path, rows: Any, tmp_path: Path) -> None:
    (tmp_path / "prompts").write_bytes("\ufeffone\r\n\n \t\n two \nthr\u2028ee".encode())
    given = [word for text in ("one", " two ", "thr\u2028ee") for word in ("--prompt", text)]
    expected = rows(babbler, *given, "--max-new-tokens", 3)
    assert rows(babbler, "--file", tmp_path / "prompts", "--max-new-tokens", 3) == expected
    assert [row["prompt"] for row in expected] == [0, 1, 2]


def test_standard_input_is_a_file(babbler: Path, rows: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    expected = rows(babbler, "--prompt", "one", "--prompt", "two", "--max-new-tokens", 3)
    assert rows(babbler, "--file", "-", "--max-new-tokens", 3) == expected


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\n\xff", "prompts is not UTF-8 text: the byte 0xff at offset 2"),
        (b"\n \n", "prompts holds no prompt"),
        (b"", "prompts holds no prompt"),
        (b"a\n\n" + 99 * b"b", "line 3 of prompts has 99 tokens; with 1 new ones it would pass n_ctx = 48"),
        (None, "cannot read prompts: No such file"),
    ],
)
def test_unusable_file_is_one_error(
    content: bytes | None, words: str, babbler: Path, run_generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path("prompts").write_bytes(content)
    code, out, err = run_generate(babbler, "--file", "prompts")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(f"gpt2spec: error: {words}")


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--logprobs 2", "--logprobs needs --json"),
        ("--interactive --json", "--interactive is for people"),
        ("--beams 2 --temperature 0.5", "beam search takes no temperature"),
        ("--beams 2 --samples 3", "3 samples of 2 beams"),
        ("--prompt ab --max-new-tokens 47", "the prompt has 2 tokens; with 47 new ones it would pass n_ctx = 48"),
        ("--prompt a --prompt bcd --max-new-tokens 46", "prompt 1 has 3 tokens; with 46 new ones"),
        ("--top-p-rule nucleus", "top_p_rule is reach or openai, not 'nucleus'"),
        ("--step 2", "holds no checkpoint of step 2; it has 1"),
    ],
)
def test_what_cannot_be_done_is_one_error(arguments: str, words: str, babbler: Path, run_generate: Any) -> None:
    code, out, err = run_generate(babbler, *arguments.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("gpt2spec: error: ") and words in err


@pytest.mark.parametrize("others", ["--prompt a --file f", "--interactive --prompt a", "--interactive --file f"])
def test_prompts_come_from_one_place(
    others: str, babbler: Path, run_generate: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        run_generate(babbler, *others.split())
    assert left.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


def test_settings_are_checked_before_anything_is_read(run_generate: Any, tmp_path: Path) -> None:
    assert "top_k" in run_generate(tmp_path / "absent", "--top-k", 0)[2]


def test_damaged_checkpoint_names_the_one_before(run_generate: Any, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_run(tmp_path, spelling_parameters(TEXT), step=step)
    for step in (1, 3):
        (tmp_path / "checkpoints" / f"step-{step:08d}" / "model.safetensors").write_bytes(b"")
    code, _, err = run_generate(tmp_path)
    assert code == 2 and err.endswith("does not match its checksum; --step 2 takes the one before\n")
    assert run_generate(tmp_path, "--step", 2)[:2] == (0, TEXT + "\n")
    assert run_generate(tmp_path, "--step", 1)[2].endswith("does not match its checksum\n")


def test_weights_that_are_no_numbers_leave_a_whole_line(run_generate: Any, tmp_path: Path) -> None:
    params = spelling_parameters(TEXT)
    params["ln_f.weight"][:] = np.nan
    code, out, err = run_generate(write_run(tmp_path, params), "--prompt", "ab")
    assert (code, out) == (2, "ab\n")
    assert "logits are not finite" in err
