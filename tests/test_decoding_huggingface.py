"""Generation gives the tokens of Hugging Face's, with equal weights in float64.

Nothing is downloaded. Where two candidates are within rounding of each other the tokens would prove nothing: such a
margin fails the test.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from decoding_models import EXACT, PROMPTS, SMALL, Margins, Model

from gpt2spec.api import Generation, Generator

MARGIN = 1e-8
OURS = Generator(EXACT, SMALL.config, SMALL.params)


class Double:
    """PyTorch with float64 in place of float32."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Use one thread, because on such small matrices threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def their_scores_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep their logits and scores in float64, which their generation rounds to float32."""
    monkeypatch.setattr(transformers.generation.utils, "torch", Double())


def load(model: Model) -> Any:
    """Their model with our weights."""
    config = transformers.GPT2Config(
        vocab_size=model.config.vocab_size,
        n_positions=model.config.n_ctx,
        n_embd=model.config.n_embd,
        n_layer=model.config.n_layer,
        n_head=model.config.n_head,
        layer_norm_epsilon=model.config.layer_norm_epsilon,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = transformers.GPT2LMHeadModel(config).double().eval()
    state = {f"transformer.{name}": torch.tensor(array) for name, array in model.params.items()}
    theirs.load_state_dict({**state, "lm_head.weight": state["transformer.wte.weight"]})
    return theirs


THEIRS = load(SMALL)


def theirs(prompts: Sequence[Sequence[int]], count: int, **settings: Any) -> Any:
    """The result of their `generate` for prompts that are padded on the left."""
    width = max(map(len, prompts))
    tokens = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return THEIRS.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_logits=True,
        output_scores=True,
        **settings,
    )


def until(stops: Sequence[int], tokens: Sequence[int]) -> list[int]:
    """The tokens before the first stop token."""
    ends = [i for i, token in enumerate(tokens) if token in stops]
    return [int(token) for token in tokens[: min(ends, default=len(tokens))]]


def margin(found: Sequence[Generation]) -> float:
    """The smallest distance between the two likeliest tokens in any step."""
    steps = [alternatives for generation in found for alternatives in generation.alternatives or []]
    return min(first[1] - second[1] for first, second in steps)


# Greedy


def test_greedy_tokens_and_their_log_probabilities_are_those_of_hugging_face() -> None:
    """Prompts have different lengths in one batch; another continues alone to the end of the context."""
    out = theirs(PROMPTS, 70)
    found = OURS.generate(PROMPTS, temperature=0.0, max_new_tokens=70, alternatives=2)
    assert (nearest := margin(found)) > MARGIN, f"two tokens are {nearest} apart: choose other prompts"
    assert [g.tokens for g in found] == out.sequences[:, 70:].tolist()
    logprobs = torch.stack(out.logits, 1).log_softmax(-1).numpy()  # [B, steps, V]
    for generation, row in zip(found, logprobs, strict=True):
        np.testing.assert_allclose(generation.logprobs, row[np.arange(70), generation.tokens], atol=1e-10)
        for step, alternatives in zip(row, generation.alternatives or [], strict=True):
            np.testing.assert_allclose([p for _, p in alternatives], np.sort(step)[:-3:-1], atol=1e-10)
    found = OURS.generate([PROMPTS[1]], temperature=0.0, max_new_tokens=80, alternatives=2)
    assert (nearest := margin(found)) > MARGIN, f"two tokens are {nearest} apart: choose another prompt"
    assert found[0].tokens == theirs([PROMPTS[1]], 80).sequences[0, 70:].tolist()


def test_texts_end_at_stop_tokens_where_theirs_do() -> None:
    free = OURS.generate(PROMPTS, temperature=0.0, max_new_tokens=40)
    ends = {stop: len({(*text.tokens, stop).index(stop) for text in free}) for stop in range(37)}
    stops = sorted(ends, key=lambda stop: -ends[stop])[:2]
    out = theirs(PROMPTS, 40, eos_token_id=stops)
    found = OURS.generate(PROMPTS, temperature=0.0, max_new_tokens=40, stop_tokens=stops)
    assert len({len(generation.tokens) for generation in found}) > 2
    assert [g.tokens for g in found] == [until(stops, row) for row in out.sequences[:, 70:].tolist()]


@pytest.mark.parametrize("penalty", [0.7, 1.2, 2.0])
def test_greedy_tokens_with_a_repetition_penalty_are_those_of_hugging_face(penalty: float) -> None:
    """The prompt's tokens count too."""
    found = OURS.generate(PROMPTS, temperature=0.0, max_new_tokens=40, repetition_penalty=penalty)
    free = OURS.generate(PROMPTS, temperature=0.0, max_new_tokens=40)
    assert all(one.tokens != other.tokens for one, other in zip(found, free, strict=True))
    out = theirs(PROMPTS, 40, repetition_penalty=penalty)
    best = np.sort(torch.stack(out.scores, 1).numpy())  # the logits they choose from, [B, steps, V]
    assert (nearest := (best[..., -1] - best[..., -2]).min()) > MARGIN, f"two tokens are {nearest} apart"
    assert [g.tokens for g in found] == out.sequences[:, 70:].tolist()
    logprobs = torch.stack(out.logits, 1).log_softmax(-1).numpy()
    for generation, row in zip(found, logprobs, strict=True):
        np.testing.assert_allclose(generation.logprobs, row[np.arange(40), generation.tokens], atol=1e-10)


# Beam search


@pytest.mark.parametrize("early_stopping", [True, False])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0, -0.5])
@pytest.mark.parametrize(("beams", "samples", "stops"), [(2, 1, 0), (4, 3, 1), (5, 5, 2)])
def test_beams_and_scores_are_those_of_hugging_face(
    beams: int,
    samples: int,
    stops: int,
    length_penalty: float,
    early_stopping: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our search without early stopping is their "never"; their False ends by a guess where lengths count."""
    (free,) = OURS.generate([PROMPTS[0]], beams=beams, max_new_tokens=24)
    ends = list(dict.fromkeys(free.tokens[9:]))[:stops]
    settings: dict[str, Any] = {"length_penalty": length_penalty, "max_new_tokens": 24}
    margins = Margins(monkeypatch)
    found = OURS.generate(
        PROMPTS, beams=beams, samples=samples, stop_tokens=ends, early_stopping=early_stopping, **settings
    )
    assert margins.smallest > MARGIN, f"two candidates are {margins.smallest} apart: choose other prompts"
    assert not ends or {generation.finish_reason for generation in found} == {"stop", "length"}
    out = theirs(
        PROMPTS,
        24,
        num_beams=beams,
        num_return_sequences=samples,
        length_penalty=length_penalty,
        early_stopping=early_stopping or "never",
        eos_token_id=ends or None,
    )
    assert [g.tokens for g in found] == [until(ends, row) for row in out.sequences[:, 70:].tolist()]
    np.testing.assert_allclose([g.score or 0.0 for g in found], out.sequences_scores.numpy(), atol=1e-9)


def test_a_search_to_the_end_of_the_context_is_that_of_hugging_face(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, count = [3] * 110, 40
    margins = Margins(monkeypatch)
    (found,) = OURS.generate([prompt], beams=3, max_new_tokens=count)
    assert margins.smallest > MARGIN, f"two candidates are {margins.smallest} apart: choose another prompt"
    out = theirs([prompt], count, num_beams=3, length_penalty=0.0, early_stopping="never")
    assert found.tokens == out.sequences[0, len(prompt) :].tolist()
    assert found.score == pytest.approx(out.sequences_scores.item(), abs=1e-9)
