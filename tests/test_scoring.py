"""Likelihoods are the model's, whatever the batch; answers are kept, and never computed twice."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpt2spec
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sampling import log_probabilities
from gpt2spec.errors import ConfigError, InputError
from gpt2spec.parameters import HostParams, initial_parameters
from gpt2spec.tasks.cache import AnswerCache, fingerprint
from gpt2spec.tasks.evaluate import Model, answer_all
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.requests import Answer, Continuation, Continued, Likelihood, Likely, Request
from gpt2spec.tasks.scoring import Scorer, rows_of, width_of
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=16, n_ctx=40, vocab_size=257, dropout=0.0)
BACKENDS = ["numpy", "torch", "jax"]


@pytest.fixture(scope="module")
def params() -> HostParams:
    return {name: 5.0 * values for name, values in initial_parameters(CONFIG, seed=0).items()}


@pytest.fixture(scope="module")
def requests() -> list[Likelihood]:
    rng = np.random.default_rng(0)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(map(int, rng.integers(0, 257, count)))

    sizes = [(1, 1), (3, 5), (39, 1), (1, 40), (20, 20), (60, 10), (5, 38), (9, 2), (9, 2)]
    return [Likelihood(tokens(before), tokens(after), frozenset(range(100))) for before, after in sizes]


def expected(params: HostParams, request: Likelihood) -> Likely:
    """The likelihoods by the definition, from the logits at every position in float64."""
    backend = gpt2spec.load_backend("numpy", dtype="float64")
    tokens = [*request.context, *request.target][-(CONFIG.n_ctx + 1) :]
    logits = gpt2spec.logits(backend, CONFIG, params, [tokens[:-1]])[0]
    logits, targets = logits[-len(request.target) :], np.array(tokens[-len(request.target) :])
    chosen = log_probabilities(logits)[np.arange(len(targets)), targets]
    masked = logits[0].copy()
    masked[list(request.banned)] = -np.inf
    greedy = tuple(map(bool, logits.argmax(-1) == targets))
    return Likely(float(chosen.sum()), greedy, bool(masked.argmax() == targets[0]))


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_likelihoods_are_those_of_the_logits(
    name: str, batch_size: int, params: HostParams, requests: list[Likelihood]
) -> None:
    backend = gpt2spec.load_backend(name, **({"compile": "false"} if name == "torch" else {}))
    answers = Scorer(backend, CONFIG, params, requests[0].banned, batch_size).score(requests)
    for answer, request in zip(answers, requests, strict=True):
        right = expected(params, request)
        assert answer.total == pytest.approx(right.total, rel=1e-5)
        assert (answer.greedy, answer.filtered) == (right.greedy, right.filtered)


def test_the_likeliest_token_is_greedy_and_bans_apply_to_the_first(params: HostParams) -> None:
    backend = gpt2spec.load_backend("numpy", dtype="float64")
    logits = gpt2spec.logits(backend, CONFIG, params, [[7, 8, 9]])[0, -1]
    first, second = (int(i) for i in np.argsort(-logits)[:2])
    scorer = Scorer(backend, CONFIG, params, banned=[first])
    one, two = scorer.score([Likelihood((7, 8, 9), (first,)), Likelihood((7, 8, 9), (second,))])
    assert (one.greedy, one.filtered) == ((True,), False)
    assert (two.greedy, two.filtered) == ((False,), True)


def test_target_longer_than_the_context_is_read_in_windows(params: HostParams) -> None:
    backend = gpt2spec.load_backend("numpy", dtype="float64")
    target = tuple(range(100))
    (whole,) = Scorer(backend, CONFIG, params).score([Likelihood((1, 2, 3), target)])
    rows = rows_of(Likelihood((1, 2, 3), target), CONFIG.n_ctx)
    assert [row.targets for row in rows] == [40, 40, 20]
    assert len(whole.greedy) == 100
    parts = [Likelihood(row.tokens[: -row.targets], row.tokens[-row.targets :]) for row in rows]
    assert whole.total == pytest.approx(sum(expected(params, part).total for part in parts))


def test_empty_target_is_certain(params: HostParams) -> None:
    scorer = Scorer(gpt2spec.load_backend("numpy"), CONFIG, params)
    assert scorer.score([Likelihood((1, 2), ())]) == [Likely(0.0, (), True)]


def test_weights_that_are_not_numbers_are_told(params: HostParams) -> None:
    broken = {**params, "ln_f.bias": np.full_like(params["ln_f.bias"], np.nan)}
    with pytest.raises(InputError, match="not finite"):
        Scorer(gpt2spec.load_backend("numpy"), CONFIG, broken).score([Likelihood((1,), (2,))])


@given(st.integers(1, 1024))
def test_few_widths_hold_every_row(length: int) -> None:
    width = width_of(length, 1024)
    assert length <= width <= max(8, 2 * length)
    assert width <= 1.5 * length or width <= 24
    assert len({width_of(n, 1024) for n in range(1, 1025)}) <= 14
    assert width_of(length, 1000) <= 1000 or length > 1000


# How texts become tokens.


READER = Reader(gpt2_tokenizer(), 1024, 1024)


@given(
    st.text(st.characters(codec="utf-8"), max_size=30), st.text(st.characters(codec="utf-8"), min_size=1, max_size=30)
)
def test_pairs_are_encoded_as_lm_eval_does(context: str, target: str) -> None:
    model = pytest.importorskip("lm_eval.api.model", reason="needs the extra lm-eval")

    class Theirs(model.TemplateLM):  # type: ignore[misc, name-defined]
        eot_token_id = 50256
        _loglikelihood_tokens = loglikelihood_rolling = generate_until = None

        def tok_encode(self, string: str, **_: Any) -> list[int]:
            return gpt2_tokenizer().encode(string)

    Theirs.__abstractmethods__ = frozenset()
    if context:
        mine = READER.likelihood(context, target)
        before, after = Theirs()._encode_pair(context, target)
        assert mine.context == (tuple(before) or (50256,))
        assert mine.target == tuple(after) or not after  # both can become one token
        assert mine.target


def test_space_at_the_end_of_the_context_belongs_to_the_target() -> None:
    asked = READER.likelihood("The cat ", "sat")
    assert [gpt2_tokenizer().decode(part) for part in (asked.context, asked.target)] == ["The cat", " sat"]
    assert READER.likelihood("", "sat").context == (50256,)


def test_end_of_text_in_a_text_is_ordinary() -> None:
    assert 50256 not in READER.likelihood("a", "<|endoftext|>").target
    assert READER.text("<|endoftext|>")[0].context == (50256,)
    assert len(READER.text("<|endoftext|>")[0].target) == 7


def test_document_is_cut_at_its_end_and_the_prompt_kept() -> None:
    reader = Reader(byte_tokenizer(), 20, 20)
    asked = reader.continuation("Q:", 5, document="abcdefghijklmnopqrstuvwxyz")
    assert byte_tokenizer().decode(asked.prompt) == "abcdefghijklmQ:"
    assert byte_tokenizer().decode(reader.continuation("abcdefghijklmnopqrst", 5).prompt) == "fghijklmnopqrst"
    assert reader.continuation("", 50).options.max_new_tokens == 10
    assert reader.continuation("", 5).prompt == (256,)


# What is kept.


class Counting(Model):
    """The real model, which counts its requests and can be interrupted."""

    asked = 0
    patience = 10**9

    def answer(self, requests: Any) -> list[Answer]:
        if self.asked >= self.patience:
            raise KeyboardInterrupt
        self.asked += len(requests)
        return super().answer(requests)


@pytest.fixture
def mixed(requests: list[Likelihood]) -> list[Request]:
    greedy = GenerateOptions(max_new_tokens=4, temperature=0.0)
    drawn = GenerateOptions(max_new_tokens=4, top_k=5)
    prompts = [(1, 2), (3,), (1, 2), (4, 5, 6)]
    return [*requests, *(Continuation(p, options) for options in (greedy, drawn) for p in prompts)]


def counting(params: HostParams, batch_size: int = 2) -> Counting:
    return Counting(gpt2spec.load_backend("numpy", dtype="float64"), CONFIG, params, byte_tokenizer(), batch_size)


def test_answers_do_not_depend_on_the_batch(params: HostParams, mixed: list[Request]) -> None:
    caches = [AnswerCache() for _ in range(2)]
    for cache, batch_size in zip(caches, (1, 16), strict=True):
        answer_all(mixed, "t", counting(params, batch_size), cache)
    for request in mixed:
        one, many = (cache[request] for cache in caches)
        if isinstance(one, Likely) and isinstance(many, Likely):
            assert one.total == pytest.approx(many.total, rel=1e-10)
            assert (one.greedy, one.filtered) == (many.greedy, many.filtered)
        else:
            assert isinstance(one, Continued) and isinstance(many, Continued)
            assert one.text == many.text
            assert one.logprob == pytest.approx(many.logprob, rel=1e-10)


def test_interrupted_evaluation_goes_on_where_it_was(params: HostParams, mixed: list[Request], tmp_path: Path) -> None:
    path = tmp_path / "deep" / "answers.jsonl"
    first = counting(params)
    first.patience = 5
    with pytest.raises(KeyboardInterrupt):
        answer_all(mixed, "t", first, AnswerCache(path))
    with path.open("a") as file:
        file.write('["torn')  # as a killed process leaves it
    second = counting(params)
    cache = AnswerCache(path)
    answer_all(mixed, "t", second, cache)
    different = len({(type(r), str(r)) for r in mixed})
    assert first.asked >= 5
    assert first.asked + second.asked == different, "nothing is computed twice"
    third, again = counting(params), AnswerCache(path)
    answer_all(mixed, "t", third, again)
    assert third.asked == 0
    for request in mixed:
        assert again[request] == cache[request]


def test_other_weights_have_other_answers(params: HostParams) -> None:
    changed = {name: values.copy() for name, values in params.items()}
    changed["wte.weight"][3, 3] += 1e-3
    marks = {fingerprint(CONFIG, p, who) for p in (params, changed) for who in ("numpy", "jax")}
    assert len(marks) == 4
    assert fingerprint(CONFIG, params, "numpy") in marks


def test_tokenizer_larger_than_the_model_and_empty_batches_are_refused(params: HostParams) -> None:
    backend = gpt2spec.load_backend("numpy")
    with pytest.raises(ConfigError, match="do not belong together"):
        Model(backend, CONFIG, params, gpt2_tokenizer())
    with pytest.raises(ConfigError, match="at least 1 row"):
        Model(backend, CONFIG, params, byte_tokenizer(), batch_size=0)
    with pytest.raises(ConfigError, match="a stride lies from 1"):
        Model(backend, CONFIG, params, byte_tokenizer(), stride=41)
