"""Metrics equal those of the field's packages on random and real texts, and worked examples."""

import math
import random
import re
from collections.abc import Callable, Sequence
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from gpt2spec.errors import ConfigError, InputError
from gpt2spec.metrics import answers, bleu, likelihood, rouge, uncertainty
from gpt2spec.metrics.windows import windows

MANUAL = " ".join(topics[name] for name in sorted(topics))
"""Real English with symbols, numbers and code: the language reference that Python carries."""


def real_sentences(count: int, seed: int = 0) -> list[str]:
    sentences = re.split(r"(?<=[.:])\s+", MANUAL)
    return random.Random(seed).sample([s for s in sentences if 20 < len(s) < 400], count)


def variants(sentence: str, draw: random.Random) -> str:
    """The sentence with words left out, doubled and moved: something to compare with it."""
    words = sentence.split()
    for _ in range(draw.randrange(1 + len(words) // 2)):
        at = draw.randrange(len(words))
        words[at : at + 1] = draw.choice([[], [words[at]] * 2, [draw.choice(words)], [words[at].upper(), ","]])
        words = words or ["nothing"]
    return " ".join(words)


@pytest.fixture(scope="module")
def pairs() -> list[tuple[str, str]]:
    """Thousands of (prediction, reference): real sentences and their variants, and words from a tiny vocabulary."""
    draw = random.Random(1)
    real = [(variants(sentence, draw), sentence) for sentence in real_sentences(1000)]
    vocabulary = ["a", "b", "c", "the", "x1", "7", "The", "an", "it's", "end."]
    made = [tuple(" ".join(draw.choices(vocabulary, k=draw.randrange(12))) for _ in range(2)) for _ in range(2000)]
    return [*real, *made]  # type: ignore[list-item]


# ROUGE, against Google's rouge-score.


def test_rouge_is_that_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rouge3", "rougeL"])
    for prediction, reference in pairs:
        theirs = scorer.score(reference, prediction)
        mine, right = rouge.words_of(prediction), rouge.words_of(reference)
        ours = {f"rouge{n}": rouge.rouge_n(mine, right, n) for n in (1, 2, 3)} | {"rougeL": rouge.rouge_l(mine, right)}
        for name, score in ours.items():
            expected = theirs[name]
            assert score == pytest.approx((expected.recall, expected.precision, expected.fmeasure), abs=1e-12)


def test_rouge_of_a_summary_is_that_of_rouge_score(pairs: list[tuple[str, str]]) -> None:
    scorer = rouge_scorer.RougeScorer(["rougeLsum"])
    draw = random.Random(2)
    for _ in range(600):
        prediction, reference = (
            [side for side, _ in draw.sample(pairs, draw.randrange(1, 4))],
            [side for _, side in draw.sample(pairs, draw.randrange(1, 4))],
        )
        prediction, reference = ([" ".join(s.split()) for s in side] for side in (prediction, reference))
        expected = scorer.score("\n".join(reference), "\n".join(prediction))["rougeLsum"]
        score = rouge.rouge_l_summary(*([rouge.words_of(s) for s in side] for side in (prediction, reference)))
        assert score == pytest.approx((expected.recall, expected.precision, expected.fmeasure), abs=1e-12)


def test_beta_weighs_recall() -> None:
    score = rouge.rouge_l(["a", "b", "x", "y", "z"], ["a", "b", "c"], beta=2.0)
    assert (score.recall, score.precision) == (2 / 3, 2 / 5)
    assert score.f == pytest.approx(5 * (2 / 3) * (2 / 5) / (2 / 3 + 4 * 2 / 5))
    assert rouge.rouge_l(["a"], ["b"]) == (0.0, 0.0, 0.0)


# BLEU, against sacrebleu.


@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("references", [1, 3])
def test_bleu_is_that_of_sacrebleu(pairs: list[tuple[str, str]], smooth: bool, references: int) -> None:
    draw = random.Random(references)
    judge = sacrebleu.BLEU(smooth_method="exp" if smooth else "none")
    for size in [1] * 300 + [2, 3, 5, 40, 400]:
        chosen = draw.sample(pairs, size)
        hypotheses = [prediction for prediction, _ in chosen]
        sets = [[variants(reference or "a", draw) for _ in range(references)] for _, reference in chosen]
        theirs = judge.corpus_score(hypotheses, [list(column) for column in zip(*sets, strict=True)])
        tokens = [bleu.tokenise_13a(text) for text in hypotheses]
        ours = bleu.corpus_bleu(tokens, [[bleu.tokenise_13a(text) for text in texts] for texts in sets], smooth)
        assert ours.score == pytest.approx(theirs.score, abs=1e-9)
        assert (ours.hypothesis_length, ours.reference_length) == (theirs.sys_len, theirs.ref_len)
        assert ours.brevity_penalty == pytest.approx(theirs.bp)
        if not smooth:
            assert list(ours.precisions) == pytest.approx(theirs.precisions, abs=1e-9)


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=60) | st.text(alphabet=" .,-07aé&<>;quotampl\n'\"%{~_"))
def test_tokens_of_bleu_are_those_of_sacrebleu(text: str) -> None:
    assert bleu.tokenise_13a(text) == sacrebleu.tokenizers.tokenizer_13a.Tokenizer13a()(text).split()


def test_bleu_clips_and_punishes_brevity() -> None:
    counts = bleu.segment_counts(["the", "the", "the", "the"], [["the", "cat", "sat", "down", "here"], ["the", "mat"]])
    assert list(counts) == [4, 5, 1, 0, 0, 0, 4, 3, 2, 1]
    score = bleu.corpus_bleu([["a", "b", "c", "d"]], [[["a", "b", "c", "d", "e", "f"]]])
    assert score.score == pytest.approx(100.0 * math.exp(1.0 - 6 / 4))
    with pytest.raises(InputError, match="at least one reference"):
        bleu.corpus_bleu([["a"]], [[]])
    with pytest.raises(InputError, match="1 hypotheses need as many"):
        bleu.corpus_bleu([["a"]], [])


# Answers.


def test_f1_and_normalisation_are_those_of_the_field(pairs: list[tuple[str, str]]) -> None:
    judge = pytest.importorskip("lm_eval.tasks.qasper.metrics", reason="needs the extra lm-eval")
    for prediction, reference in pairs:
        assert answers.normalised(prediction) == judge.normalize_answer(prediction)
        if answers.normalised(prediction) and answers.normalised(reference):
            ours, theirs = answers.token_f1(prediction, [reference]), judge.f1_abstractive([prediction], [reference])
            assert ours == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("The  Beatles!", ["the beatles"], 1.0, 1.0),
        ("an apple a day", ["apple day", "day"], 1.0, 1.0),
        ("red green", ["green blue", "yellow"], 0.0, 0.5),
        ("the", ["a"], 1.0, 1.0),
        ("", ["word"], 0.0, 0.0),
        ("U.S.", ["us"], 1.0, 1.0),
        ("theatre", ["atre"], 0.0, 0.0),
        ("red red blue", ["red red red"], 0.0, 2 / 3),
    ],
)
def test_answers_are_compared_normalised(prediction: str, references: list[str], exact: float, f1: float) -> None:
    assert answers.exact_match(prediction, references) == exact
    assert answers.token_f1(prediction, references) == pytest.approx(f1)


def test_exact_match_can_do_without_normalisation() -> None:
    assert answers.exact_match("The end", ["the end"]) == 1.0
    assert answers.exact_match("The end", ["the end"], normalise=str) == 0.0
    assert answers.exact_match("The end", ["The end"], normalise=str) == 1.0


def test_several_references_are_left_out_in_turn() -> None:
    assert answers.leave_one_out(answers.exact_match, "x", ["x", "y", "z"]) == pytest.approx(2 / 3)
    assert answers.leave_one_out(answers.exact_match, "x", ["x", "x"]) == 1.0
    assert answers.leave_one_out(answers.exact_match, "x", ["x"]) == 1.0


def test_accuracy_counts_and_the_most_confident_come_first() -> None:
    assert answers.accuracy([1, 2, 3, 4], [1, 2, 0, 4]) == 0.75
    assert answers.most_confident([0.1, 0.9, 0.9, 0.5], 0.5) == [1, 2]
    assert answers.most_confident([0.1, 0.9], 0.01) == [1]
    with pytest.raises(InputError, match="2 predictions and 1"):
        answers.accuracy([1, 2], [1])
    with pytest.raises(InputError, match="nothing to score"):
        answers.exact_match("a", [])


# Likelihood.


def test_perplexity_is_that_of_the_field() -> None:
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(0).standard_normal((50, 11)) * 3.0
    targets = np.random.default_rng(1).integers(0, 11, 50)
    logprobs = (logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(50), targets]
    expected = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(targets)).item()
    assert likelihood.cross_entropy(logprobs) == pytest.approx(expected, rel=1e-12)
    assert likelihood.perplexity(logprobs) == pytest.approx(math.exp(expected), rel=1e-12)


def test_uniform_guesses_have_the_perplexity_of_their_number() -> None:
    logprobs = [math.log(1 / 50257)] * 7
    assert likelihood.perplexity(logprobs) == pytest.approx(50257)
    assert likelihood.scaled_perplexity(sum(logprobs), 7) == pytest.approx(50257)
    assert likelihood.scaled_perplexity(sum(logprobs), 14) == pytest.approx(math.sqrt(50257))


def test_bits_are_counted_over_bytes_and_over_characters() -> None:
    total = 6 * math.log(0.5)  # six bits
    assert likelihood.bits_per_byte(total, "né€") == pytest.approx(6 / 6)
    assert likelihood.bits_per_character(total, "né€") == pytest.approx(6 / 3)


def test_impossible_texts_have_infinite_perplexity_and_empty_ones_none() -> None:
    assert likelihood.perplexity([-math.inf]) == math.inf
    assert likelihood.scaled_perplexity(-1e6, 1) == math.inf
    with pytest.raises(InputError, match="nothing to average"):
        likelihood.perplexity([])


# Windows.


@given(st.integers(0, 80), st.integers(1, 20), st.data())
def test_windows_predict_every_token_once_with_the_documented_context(length: int, n_ctx: int, data: Any) -> None:
    stride = data.draw(st.integers(1, n_ctx))
    found = list(windows(length, n_ctx, stride))
    predicted = [token for w in found for token in range(w.first, w.end)]
    assert predicted == list(range(1, length))
    for w in found:
        assert w.end - 1 - w.begin <= n_ctx, "no more is read than the context holds"
        assert w.begin == 0 or w.end - 1 - w.begin == n_ctx, "the context is filled"
    for w in found[1:]:
        assert w.first - w.begin >= n_ctx - stride + 1


def test_windows_of_the_whole_context_are_those_of_lm_eval() -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="needs the extra lm-eval")
    for length in (1, 4, 5, 9, 10, 23):
        tokens = list(range(100, 100 + length))
        expected = [
            utils.make_disjoint_window(window)
            for window in utils.get_rolling_token_windows(tokens, prefix_token=0, max_seq_len=4, context_len=1)
        ]
        padded = [0, *tokens]
        ours = [(padded[w.begin : w.first], padded[w.first : w.end]) for w in windows(len(padded), 4, 4)]
        assert ours == expected


def test_stride_beyond_the_context_is_refused() -> None:
    for stride in (0, 5):
        with pytest.raises(ConfigError, match="a stride lies from 1 to the context of 4 tokens"):
            list(windows(10, 4, stride))


# Standard errors.


def simulated(draw: Callable[[np.random.Generator], float], trials: int = 3000) -> float:
    rng = np.random.default_rng(5)
    return float(np.std([draw(rng) for _ in range(trials)]))


def test_standard_errors_are_the_spread_of_repeated_experiments() -> None:
    one = np.random.default_rng(0).random(200) < 0.3
    truth = simulated(lambda rng: float(np.mean(rng.random(200) < 0.3)))
    assert uncertainty.standard_error(one) == pytest.approx(truth, rel=0.1)

    def lengths_and_nats(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(5, 50, 300)
        return 3.0 * lengths + rng.standard_normal(300) * lengths, lengths

    def ratio(rng: np.random.Generator) -> float:
        nats, lengths = lengths_and_nats(rng)
        return float(nats.sum() / lengths.sum())

    nats, lengths = lengths_and_nats(np.random.default_rng(1))
    assert uncertainty.ratio_standard_error(nats, lengths) == pytest.approx(simulated(ratio), rel=0.15)
    resampled = uncertainty.bootstrap(lambda at: float(nats[at].sum() / lengths[at].sum()), 300)
    assert resampled == pytest.approx(simulated(ratio), rel=0.15)


def test_standard_error_of_a_mean_is_that_of_scipy_and_of_equal_weights() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).standard_normal(30)
    assert uncertainty.standard_error(values) == pytest.approx(stats.sem(values))
    assert uncertainty.ratio_standard_error(values, np.ones(30)) == pytest.approx(stats.sem(values))
    assert uncertainty.perplexity_standard_error(20.0, 0.01) == pytest.approx(0.2)


def test_bootstrap_repeats_and_one_example_has_no_standard_error() -> None:
    values = np.random.default_rng(0).standard_normal(50)

    def mean(at: Sequence[int] | np.ndarray) -> float:
        return float(values[at].mean())

    assert uncertainty.bootstrap(mean, 50) == uncertainty.bootstrap(mean, 50)
    assert uncertainty.bootstrap(mean, 50) != uncertainty.bootstrap(mean, 50, seed=1)
    assert uncertainty.bootstrap(mean, 50) == pytest.approx(uncertainty.standard_error(values), rel=0.15)
    for alone in (
        uncertainty.standard_error([1.0]),
        uncertainty.ratio_standard_error([1.0], [1.0]),
        uncertainty.bootstrap(mean, 1),
    ):
        assert math.isnan(alone)
