"""Beam search is compared with all possible sequences, with enough beams to follow them all."""

import itertools
from typing import Any

import numpy as np
import pytest
from decoding_models import EXACT, PROMPTS, SMALL, TEXT, Model, Recording

from gpt2spec.api import Choice, GenerateOptions, Generation, Generator, generate, logits
from gpt2spec.config import GPT2Config
from gpt2spec.decoding.beam import Search
from gpt2spec.decoding.sampling import log_probabilities
from gpt2spec.decoding.sequence import GrowingText
from gpt2spec.errors import InputError
from gpt2spec.tokenizer import byte_tokenizer

BYTES = byte_tokenizer()
TINY = Model(GPT2Config(n_layer=1, n_head=1, n_embd=8, n_ctx=80, vocab_size=4, dropout=0.0))
SEARCHES = Generator(EXACT, SMALL.config, SMALL.params)


def every_sequence(prompt: list[int], count: int, stops: set[int], penalty: float) -> list[tuple[float, list[int]]]:
    """All possible continuations of a prompt, including stop tokens, with their scores, the best first."""
    growing: list[tuple[float, list[int]]] = [(0.0, [])]
    found = []
    for _ in range(count):
        longer = []
        for total, tokens in growing:
            for token, logprob in enumerate(log_probabilities(TINY.logits_after(prompt + tokens))):
                longer.append((total + logprob, [*tokens, token]))
        ended = [text for text in longer if text[1][-1] in stops or len(text[1]) == count]
        found += [(total / len(tokens) ** penalty, tokens) for total, tokens in ended]
        growing = [text for text in longer if text not in ended]
    return sorted(found, key=lambda text: -text[0])


# The best there are


@pytest.mark.parametrize("penalty", [0.0, 1.0, 0.3, 2.0, -0.5])
@pytest.mark.parametrize("stops", [set(), {2}, {0, 3}], ids=str)
def test_with_beams_enough_the_best_sequences_of_all_are_found(stops: set[int], penalty: float) -> None:
    prompts, count, beams = [[1], [3, 0, 2], [2] * 66], 4, 4**3
    found = generate(
        EXACT,
        TINY.config,
        TINY.params,
        prompts,
        max_new_tokens=count,
        beams=beams,
        samples=20,
        length_penalty=penalty,
        stop_tokens=list(stops),
    )
    assert [(g.prompt, g.sample) for g in found] == list(itertools.product(range(3), range(20)))
    for number, prompt in enumerate(prompts):
        expected = every_sequence(prompt, count, stops, penalty)[:20]
        ended = {"stop" if tokens[-1] in stops else "length" for _, tokens in expected}
        assert len(ended) == 2 or not stops or penalty != 1.0, "some should end early and some should not"
        for generation, (score, tokens) in zip(found[20 * number :], expected, strict=False):
            stopped = tokens[-1] in stops
            assert generation.score == pytest.approx(score, abs=1e-12)
            assert generation.tokens == (tokens[:-1] if stopped else tokens)
            assert generation.finish_reason == ("stop" if stopped else "length")


def test_there_are_no_more_results_than_sequences() -> None:
    found = generate(EXACT, TINY.config, TINY.params, [[1]], max_new_tokens=1, beams=9, samples=9)
    assert sorted(generation.tokens for generation in found) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_scores_are_sums_of_the_models_own_log_probabilities(length_penalty: float) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 20, "beams": 4, "samples": 4, "length_penalty": length_penalty}
    free = SEARCHES.generate(PROMPTS, **settings)
    stop = free[0].tokens[8]
    found = SEARCHES.generate(PROMPTS, stop_tokens=[stop], **settings)
    assert {generation.finish_reason for generation in found} == {"stop", "length"}
    for generation in found:
        ids, expected = list(PROMPTS[generation.prompt]), []
        for token in [*generation.tokens, stop][: len(generation.tokens) + (generation.finish_reason == "stop")]:
            expected.append(log_probabilities(SMALL.logits_after(ids))[token])
            ids.append(token)
        assert generation.logprobs == pytest.approx(expected[: len(generation.tokens)], abs=1e-10)
        assert generation.score == pytest.approx(sum(expected) / len(expected) ** length_penalty, abs=1e-10)
        assert stop not in generation.tokens
    for _, group in itertools.groupby(found, lambda generation: generation.prompt):
        results = list(group)
        assert [generation.sample for generation in results] == [0, 1, 2, 3]
        scores = [generation.score or 0.0 for generation in results]
        assert scores == sorted(scores, reverse=True)
        assert len({(*generation.tokens, generation.finish_reason) for generation in results}) == 4


def test_more_beams_find_likelier_texts_than_the_greedy_one() -> None:
    greedy = SEARCHES.generate(PROMPTS, max_new_tokens=30, temperature=0.0)
    found = SEARCHES.generate(PROMPTS, max_new_tokens=30, beams=8)
    gains = [(beam.score or 0.0) - sum(text.logprobs) for beam, text in zip(found, greedy, strict=True)]
    assert min(gains) >= 0
    assert max(gains) > 1


@pytest.mark.parametrize("stops", [[], [4, 20, 31]], ids=str)
def test_one_beam_is_greedy(stops: list[int]) -> None:
    wanted: dict[str, Any] = {"max_new_tokens": 70, "stop_tokens": stops}
    expected = SEARCHES.generate(PROMPTS, temperature=0.0, **wanted)
    for found, text in zip(SEARCHES.search(PROMPTS, beams=1, **wanted), expected, strict=True):
        assert (found.tokens, found.finish_reason) == (text.tokens, text.finish_reason)
        assert found.logprobs == pytest.approx(text.logprobs, abs=1e-10)


# Together and alone


@pytest.mark.parametrize("batch_size", [1, 2, 4, 8, 16])
def test_a_search_does_not_depend_on_its_batch(batch_size: int) -> None:
    """It does not depend on searches that end earlier either."""
    wanted: dict[str, Any] = {"max_new_tokens": 40, "beams": 3, "samples": 2, "length_penalty": 0.7}
    free = SEARCHES.generate(PROMPTS, **wanted)
    wanted["stop_tokens"] = [free[2].tokens[4], free[6].tokens[20]]
    together = SEARCHES.generate(PROMPTS, batch_size=batch_size, **wanted)
    assert len({len(generation.tokens) for generation in together}) > 2
    assert list(SEARCHES.search(PROMPTS, batch_size=batch_size, **wanted)) == together
    alone = [g for prompt in PROMPTS for g in SEARCHES.generate([prompt], **wanted)]
    for one, other in zip(together, alone, strict=True):
        assert (one.tokens, one.finish_reason, one.sample) == (other.tokens, other.finish_reason, other.sample)
        assert one.score == pytest.approx(other.score, abs=1e-10)


def test_results_come_prompt_by_prompt_and_nothing_is_computed_after_the_last() -> None:
    backend = Recording()
    generator = Generator(backend, SMALL.config, SMALL.params)
    results = generator.search([[1], [2], [3]], beams=3, batch_size=3, max_new_tokens=5)
    counts = []
    for result in results:
        counts.append((result.prompt, backend.calls.count("read"), backend.calls.count("append")))
    assert counts == [(0, 1, 4), (1, 2, 8), (2, 3, 12)]
    backend.calls.clear()
    (first,) = generator.search([[1]], beams=1, max_new_tokens=1)
    backend.calls.clear()
    list(generator.search([[1]], beams=1, max_new_tokens=30, stop_tokens=first.tokens))
    assert backend.calls == ["read", "to_numpy"]


# When a search ends


def after_two_steps(**options: Any) -> Search:
    """A search with two beams over three tokens, of which 0 ends a text; after two steps, two texts are finished."""
    search = Search(0, GenerateOptions(beams=2, stop_tokens=[0], max_new_tokens=9, **options), None)
    assert search.advance(np.log([[0.6, 0.3, 0.1]]), 0) == [0, 0]
    assert not search.done
    assert [beam.tokens for beam in search.live] == [(1,), (2,)]
    search.advance(np.log([[0.5, 0.4, 0.1], [0.2, 0.2, 0.6]]), 1)
    assert [beam.tokens for _, beam in search.finished] == [(0,), (1, 0)]
    return search


def test_a_search_ends_when_nothing_better_can_come() -> None:
    assert after_two_steps().done, "0.12 so far is less than the 0.15 of the second text already"
    assert after_two_steps(length_penalty=-1.0).done
    assert not after_two_steps(length_penalty=1.0).done, "with seven more tokens its mean may still be better"
    assert after_two_steps(length_penalty=1.0, early_stopping=True).done
    assert after_two_steps(early_stopping=True).done


def test_a_search_goes_on_while_the_worst_of_its_results_can_be_beaten() -> None:
    search = Search(0, GenerateOptions(beams=2, stop_tokens=[0], max_new_tokens=9), None)
    search.advance(np.log([[0.6, 0.3, 0.1]]), 0)
    search.advance(np.log([[0.4, 0.35, 0.25], [0.1, 0.1, 0.8]]), 1)
    assert [beam.tokens for _, beam in search.finished] == [(0,), (1, 0)]
    assert search.done, "0.105 so far, against 0.12"
    search = Search(0, GenerateOptions(beams=2, stop_tokens=[0], max_new_tokens=9), None)
    search.advance(np.log([[0.6, 0.3, 0.1]]), 0)
    search.advance(np.log([[0.4, 0.55, 0.05], [0.1, 0.1, 0.8]]), 1)
    assert [beam.tokens for _, beam in search.finished] == [(0,), (1, 0)]
    assert not search.done, "0.165 so far, against 0.6 and 0.12"


def test_a_better_text_takes_the_place_of_a_finished_one() -> None:
    search = after_two_steps(length_penalty=1.0)
    assert [beam.tokens for beam in search.live] == [(1, 1), (2, 2)]
    search.advance(np.log([[0.98, 0.01, 0.01], [0.1, 0.1, 0.8]]), 2)
    assert [beam.tokens for _, beam in search.finished] == [(0,), (1, 1, 0)]
    assert search.finished[1][0] == pytest.approx(np.log(0.3 * 0.4 * 0.98) / 3)


def test_a_text_that_ends_below_the_best_candidates_is_not_a_result() -> None:
    search = Search(0, GenerateOptions(beams=1, stop_tokens=[0], max_new_tokens=9), None)
    search.advance(np.log([[0.3, 0.4, 0.3]]), 0)
    assert search.finished == []
    assert [beam.tokens for beam in search.live] == [(1,)]


def test_among_equal_scores_the_better_beam_and_the_lowest_id_come_first() -> None:
    search = Search(0, GenerateOptions(beams=2, max_new_tokens=9), None)
    assert search.advance(np.log([[0.25, 0.25, 0.25, 0.25]]), 0) == [0, 0]
    assert [beam.tokens for beam in search.live] == [(0,), (1,)]
    assert search.advance(np.log([[0.2, 0.4, 0.2, 0.2], [0.4, 0.2, 0.2, 0.2]]), 1) == [0, 1]
    assert [beam.tokens for beam in search.live] == [(0, 1), (1, 0)]


def test_enough_beams_go_on_even_if_every_one_may_end_in_several_ways() -> None:
    search = Search(0, GenerateOptions(beams=2, stop_tokens=[0, 1, 2], max_new_tokens=9, length_penalty=5.0), None)
    search.advance(np.log([[0.3, 0.3, 0.3, 0.06, 0.04]]), 0)
    assert [beam.tokens for beam in search.live] == [(3,), (4,)]
    assert [beam.tokens for _, beam in search.finished] == [(0,), (1,)]
    search.advance(np.log([[0.3, 0.3, 0.3, 0.09, 0.01]] * 2), 1)
    assert [beam.tokens for beam in search.live] == [(3, 3), (4, 3)]


def test_logits_that_are_not_finite_are_told_from_a_later_step_too() -> None:
    wpe = SMALL.params["wpe.weight"].copy()
    wpe[5] = np.nan
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match="the model's logits are not finite"):
        generate(EXACT, SMALL.config, {**SMALL.params, "wpe.weight": wpe}, [[1, 2, 3]], beams=2, max_new_tokens=9)


# Text


def as_it_grows(generation: Generation, prompt: list[int], options: GenerateOptions) -> tuple[str, str]:
    """The text and finish reason that the tokens have without a search; the stop token is 256."""
    text = GrowingText(0, 0, prompt, 0, options, BYTES)
    pieces = [text.add(Choice(token, 0.0)) for token in [*generation.tokens, 256] if not text.finished]
    return "".join([piece.text for piece in pieces]), str(pieces[-1].finish_reason)


def test_stop_strings_end_beams_as_they_end_texts() -> None:
    """All texts of two tokens are tried, with any letter as the end; some ids are beyond the tokenizer's."""
    prompt, stop = BYTES.encode("a"), ["é", "b", "cd", "\ufffd\ufffd", "e<|"]
    options = GenerateOptions(max_new_tokens=2, beams=260, samples=260, stop=stop, stop_tokens=[256])
    found = generate(EXACT, TEXT.config, TEXT.params, [prompt], options, tokenizer=BYTES)
    first = log_probabilities(TEXT.logits_after(prompt))
    second = log_probabilities(logits(EXACT, TEXT.config, TEXT.params, [[*prompt, i] for i in range(260)])[:, -1])
    ends = {256, *BYTES.encode("b")}
    totals = {(i,): first[i] for i in ends}
    totals |= {(i, j): first[i] + second[i, j] for i in range(260) if i not in ends for j in range(260)}
    expected = sorted(totals, key=lambda tokens: -totals[tokens])[:260]
    assert [(*g.tokens, 256)[: len(e)] for g, e in zip(found, expected, strict=True)] == expected
    for generation, tokens in zip(found, expected, strict=True):
        assert generation.score == pytest.approx(totals[tokens], abs=1e-10)
        assert (generation.text, generation.finish_reason) == as_it_grows(generation, prompt, options)
    assert any(generation.finish_reason == "stop" and 256 not in generation.tokens for generation in found)
    assert any(token > 256 for generation in found for token in generation.tokens)


def test_the_text_of_a_stop_token_is_no_text() -> None:
    """It is not, even where it would complete a stop string."""
    search = Search(0, GenerateOptions(beams=2, samples=2, stop=["e<|"], stop_tokens=[256], max_new_tokens=3), BYTES)
    e, f = BYTES.encode("ef")
    logprobs = np.full((1, 257), -30.0)
    logprobs[0, [e, f]] = np.log([0.6, 0.4])
    search.advance(logprobs, 0)
    logprobs = np.full((2, 257), -30.0)
    logprobs[:, 256] = 0.0
    search.advance(logprobs, 1)
    assert [(g.text, g.tokens, g.finish_reason) for g in search.results()] == [("e", [e], "stop"), ("f", [f], "stop")]


def test_a_searched_text_is_cut_before_its_stop_string() -> None:
    generator = Generator(EXACT, TEXT.config, TEXT.params, BYTES)
    (free,) = generator.generate(["a"], beams=3, max_new_tokens=30)
    stop = (free.text or "")[4:6]
    for found in generator.generate(["a", "b", ""], beams=3, samples=3, max_new_tokens=30, stop=[stop]):
        assert stop not in (found.text or "")
        if found.finish_reason == "stop":
            assert found.tokens[-1] in BYTES.encode(stop[-1])[-1:]
            assert found.score == pytest.approx(sum(found.logprobs))
