"""Every task reads its dataset's format, makes the requests of its protocol, and scores right answers as right."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import task_samples
from task_samples import SAMPLES, write_sample

import gpt2spec
from gpt2spec.config import GPT2Config, preset
from gpt2spec.errors import ConfigError, DataError, PluginError
from gpt2spec.parameters import initial_parameters
from gpt2spec.plugins import PluginRegistry
from gpt2spec.tasks.catalogue import TASKS
from gpt2spec.tasks.evaluate import Model, Result, evaluate
from gpt2spec.tasks.published import PUBLISHED, SIZES, size_of
from gpt2spec.tasks.reader import Reader
from gpt2spec.tasks.registry import TaskListing, load_task, task_listings
from gpt2spec.tasks.requests import Answer, Continuation, Continued, Likelihood, Likely
from gpt2spec.tasks.sentences import sentences
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer

CONFIG = GPT2Config(n_layer=1, n_head=2, n_embd=16, n_ctx=256, vocab_size=257, dropout=0.0)
NAMES = [info.name for info in TASKS]


class Oracle:
    """A model with known answers: likelihoods by a rule of the target's text, and continuations by the prompt."""

    def __init__(self, likes: Callable[[str, str], float] = lambda *_: -1.0, says: Callable[[str], str] = str) -> None:
        self.likes, self.says = likes, says
        self.reader = Reader(gpt2_tokenizer(), 1024, 1024)
        self.batch_size = 4

    def answer(self, requests: Sequence[Any]) -> list[Answer]:
        decode = self.reader.tokenizer.decode
        answers: list[Answer] = []
        for request in requests:
            if isinstance(request, Likelihood):
                total = self.likes(decode(request.context), decode(request.target))
                answers.append(Likely(total, (total > -1.0,) * len(request.target), total > -1.0))
            else:
                text = self.says(decode(request.prompt))
                answers.append(Continued(text, -float(len(text))))
        return answers


def run(name: str, folder: Path, model: Any) -> Result:
    return evaluate(load_task(name), name, write_sample(name, folder), model)


def values(result: Result) -> dict[str, float]:
    return {score.name: score.value for score in result.scores}


def prompts(name: str, folder: Path) -> list[list[tuple[str, str]]]:
    """The requests about each example, as (context, target) or (prompt, "")."""
    task, reader = load_task(name), Reader(gpt2_tokenizer(), 1024, 1024)
    asked = [task.requests(example, reader) for example in task.read(write_sample(name, folder))]
    decode = reader.tokenizer.decode
    return [
        [(decode(r.context), decode(r.target)) if isinstance(r, Likelihood) else (decode(r.prompt), "") for r in each]
        for each in asked
    ]


# All of them.


def test_every_task_has_a_sample() -> None:
    assert list(SAMPLES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_task_gives_the_same_finite_scores_in_any_batches(name: str, tmp_path: Path) -> None:
    backend = gpt2spec.load_backend("numpy", dtype="float64")
    params = initial_parameters(CONFIG, seed=0)
    results = [
        run(name, tmp_path, Model(backend, CONFIG, params, byte_tokenizer(), batch_size)) for batch_size in (1, 16)
    ]
    assert results[0].examples >= 1
    for one, many in zip(*(result.scores for result in results), strict=True):
        assert one.protocol and math.isfinite(one.value)
        assert (one.name, one.count, one.published) == (many.name, many.count, many.published)
        assert one.value == pytest.approx(many.value, rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_data_that_are_missing_or_of_another_form_are_told(name: str, tmp_path: Path) -> None:
    task = load_task(name)
    with pytest.raises(DataError, match=r"there is no file or folder|is no folder with"):
        task.read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no file|is no folder with"):
        task.read(tmp_path / "empty")
    other = tmp_path / "other.bin"
    other.write_bytes(b"\xff\xfe\xff" * 20)
    with pytest.raises(DataError):
        task.read(other)


@pytest.mark.parametrize("name", ["lambada", "cbt-cn", "winograd", "hellaswag", "storycloze", "coqa", "triviaqa"])
@pytest.mark.parametrize("content", ["[1]\n", '{"a": 1}\n', "only some words\nand more\n"])
def test_file_of_another_dataset_is_told(name: str, content: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(DataError):
        load_task(name).read(path)


def test_limit_takes_the_first_examples_and_no_example_is_an_error(tmp_path: Path) -> None:
    folder = write_sample("hellaswag", tmp_path)
    assert evaluate(load_task("hellaswag"), "hellaswag", folder, Oracle(), limit=2).examples == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 1 example"):
        evaluate(load_task("hellaswag"), "hellaswag", folder, Oracle(), limit=0)  # type: ignore[arg-type]
    (folder / "hellaswag_val.jsonl").write_text("\n")
    with pytest.raises(DataError, match="holds no example of hellaswag"):
        evaluate(load_task("hellaswag"), "hellaswag", folder, Oracle())  # type: ignore[arg-type]


# Texts.


def test_perplexity_is_scaled_to_the_words_of_the_original(tmp_path: Path) -> None:
    result = run("wikitext-2", tmp_path, Oracle(likes=lambda _, target: -2.0 * len(gpt2_tokenizer().encode(target))))
    per_word, per_token = result.scores
    assert per_token.value == pytest.approx(math.exp(2.0))
    text = task_samples.WIKITEXT * 3
    words = len(text.split()) + text.count("\n")
    assert per_word.details["words"] == words
    assert per_word.value == pytest.approx(math.exp(2.0 * per_word.details["tokens"] / words))


def test_windows_over_a_text_ask_for_all_of_it_once(tmp_path: Path) -> None:
    task = load_task("wikitext-2")
    (passage,) = task.read(write_sample("wikitext-2", tmp_path))
    reader = Reader(byte_tokenizer(), 64, 16)
    asked = task.requests(passage, reader)
    tokens = [token for request in asked if isinstance(request, Likelihood) for token in request.target]
    assert byte_tokenizer().decode(tokens) == passage.text
    assert "@-@" not in passage.text
    assert all(request.length <= 64 for request in asked)


def test_raw_text_is_read_as_it_is(tmp_path: Path) -> None:
    (passage,) = load_task("wikitext-2-raw").read(write_sample("wikitext-2-raw", tmp_path))
    assert passage.text == task_samples.WIKITEXT * 3


def test_sentences_of_the_billion_words_are_read_one_by_one(tmp_path: Path) -> None:
    passages = load_task("1bw").read(write_sample("1bw", tmp_path))
    assert [passage.text for passage in passages] == [
        'He said, "It is late," and left.\n',
        "The team didn't win (again).\n",
        "Why?\n",
    ]
    assert [passage.units for passage in passages] == [13, 10, 3]


def test_bits_are_over_the_last_twentieth(tmp_path: Path) -> None:
    folder = write_sample("enwik8", tmp_path)
    content = (folder / "enwik8").read_bytes()
    (passage,) = load_task("enwik8").read(folder)
    assert content.endswith(passage.text.encode())
    assert len(content) // 20 - 3 <= passage.units == len(passage.text.encode()) <= len(content) // 20
    tokens = len(gpt2_tokenizer().encode(passage.text))
    model = Oracle(likes=lambda _, target: len(gpt2_tokenizer().encode(target)) * math.log(0.25))
    score = run("enwik8", tmp_path, model).scores[0]
    assert score.value == pytest.approx(2.0 * tokens / passage.units)


# Endings.


def test_lambada_asks_for_the_last_word_with_straight_quotes(tmp_path: Path) -> None:
    first, second, third = (asked[0] for asked in prompts("lambada", tmp_path))
    assert first == ('\nShe looked at the lamp. "Bring me the lamp," she said, and he brought the', " lamp")
    assert second[1] == " dog" and third[1] == " her"


def test_lambada_counts_words_tokens_and_stop_words(tmp_path: Path) -> None:
    def likes(_: str, target: str) -> float:
        return {" lamp": -0.5, " dog": -3.0, " her": -4.0}[target]

    found = values(run("lambada", tmp_path, Oracle(likes)))
    assert found["perplexity of the last word"] == pytest.approx(math.exp(7.5 / 3))
    assert found["accuracy of the last word"] == pytest.approx(100 / 3)
    assert found["accuracy of the last token"] == pytest.approx(100 / 3)
    task, reader = load_task("lambada"), Reader(gpt2_tokenizer(), 1024, 1024)
    (request,) = task.requests(task.read(write_sample("lambada", tmp_path))[0], reader)
    assert isinstance(request, Likelihood)
    banned = {gpt2_tokenizer().decode([token]) for token in request.banned}
    assert {" the", " The", " her", " could"} <= banned
    assert not {" dog", "the", " lamp", " then the"} & banned


def test_stop_words_are_left_out_of_guesses_of_the_first_token_alone(tmp_path: Path) -> None:
    class Guesses(Oracle):
        def answer(self, requests: Sequence[Any]) -> list[Answer]:
            return [Likely(-1.0, (False, *(True,) * (len(r.target) - 1)), True) for r in requests]

    found = values(run("lambada", tmp_path, Guesses()))
    assert found["accuracy of the last word"] == 0.0
    assert found["accuracy of the last word, no stop words"] == 100.0


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("cbt-cn", lambda target: target.startswith(" fox,")),
        ("cbt-ne", lambda target: target.startswith(" fox,")),
    ],
)
def test_books_ask_for_the_word_and_the_rest_of_the_sentence(
    name: str, right: Callable[[str], bool], tmp_path: Path
) -> None:
    asked = prompts(name, tmp_path)[0]
    assert len(asked) == 10
    assert asked[0][1] == " fox, and didn't run."
    assert asked[0][0].startswith('"The fox 1 ran," said the hen. "The fox 2')
    assert asked[0][0].endswith("The hen saw the")
    assert len({context for context, _ in asked}) == 1
    assert values(run(name, tmp_path, Oracle(lambda _, t: 0.0 if right(t) else -9.0))) == {"accuracy": 100.0}
    assert values(run(name, tmp_path, Oracle(lambda _, t: -9.0 if right(t) else 0.0))) == {"accuracy": 0.0}


def test_winograd_scores_whole_and_part(tmp_path: Path) -> None:
    first, second = prompts("winograd", tmp_path)
    assert first == [
        ("<|endoftext|>", "The cup fell off the table because the cup was wet."),
        ("The cup fell off the table because the cup", " was wet."),
        ("<|endoftext|>", "The cup fell off the table because the table was wet."),
        ("The cup fell off the table because the table", " was wet."),
    ]
    assert second[1] == ("Ann told Beth that Ann", " had won.")

    def likes(context: str, target: str) -> float:
        if context.endswith(("table", "Beth")):
            return -1.5
        return -2.5 if "the table was" in target or "Beth had" in target else -2.0

    found = values(run("winograd", tmp_path, Oracle(likes)))
    assert found == {"accuracy, partial scoring": 100.0, "accuracy, full scoring": 0.0}


def test_winograd_reads_the_authors_collection(tmp_path: Path) -> None:
    path = tmp_path / "WSCollection.xml"
    schema = (
        "<schema><text><txt1>Ann lent Beth</txt1><pron>her</pron><txt2>pen.</txt2></text>"
        "<quote><quote1/><pron>her</pron><quote2/></quote>"
        "<answers><answer>Ann</answer><answer>Beth</answer></answers><correctAnswer> A. </correctAnswer></schema>"
    )
    other = schema.replace("<pron>her", "<pron>his").replace("A.", "B")
    path.write_text(f"<?xml version='1.0' encoding='UTF-8'?>\n<collection>{schema}{other}</collection>")
    first, second = load_task("winograd").read(path)
    assert (first.before, first.after, first.candidates, first.right) == ("Ann lent Beth", "pen.", ("Ann", "Beth"), 0)
    assert (second.candidates, second.right) == (("Ann's", "Beth's"), 1)


@pytest.mark.parametrize(
    ("name", "context", "right"),
    [
        ("storycloze", "Tom was tired. He lay down. He closed his eyes, slowly. It got dark.", ("asleep", "ate")),
        ("hellaswag", "Washing a car: A man holds a hose. He", ()),
    ],
)
def test_choices_follow_their_context(name: str, context: str, right: tuple[str, ...], tmp_path: Path) -> None:
    asked = prompts(name, tmp_path)
    assert {before for before, _ in asked[0]} == {context}
    if name == "hellaswag":
        endings = [" sprays the car with water.", " eats the hose.", " flies away. home", " sings"]
        assert [target for _, target in asked[0]] == endings
        found = values(run(name, tmp_path, Oracle(lambda _, target: -float(len(target)))))
        assert found["accuracy"] == pytest.approx(20.0), "the shortest is right once in five"
        totals = dict(zip(endings, (-26.0, -13.0, -60.0, -10.0), strict=True))  # per character -1, -0.93, -6, -2
        found = values(run(name, tmp_path, Oracle(lambda _, target: totals[target])))
        assert found == {"accuracy": 20.0, "accuracy by length": 20.0}
        totals[" sprays the car with water."] = -12.0
        assert values(run(name, tmp_path, Oracle(lambda _, target: totals[target])))["accuracy by length"] == 40.0
    else:
        likes = Oracle(lambda _, target: 0.0 if any(word in target for word in right) else -9.0)
        assert values(run(name, tmp_path, likes))["accuracy"] == 100.0


# Continuations.


def test_coqa_is_a_conversation_with_peoples_answers(tmp_path: Path) -> None:
    first, second = (asked[0][0] for asked in prompts("coqa", tmp_path))
    story = "Lena has a red kite. She flies it on the beach.\n\n"
    assert first == story + "Q: What does Lena have?\nA:"
    assert second == story + "Q: What does Lena have?\nA: a kite\nQ: Where?\nA:"
    says = Oracle(says=lambda prompt: " the kite" if prompt.count("Q:") == 1 else " On the beach.")
    found = values(run("coqa", tmp_path, says))
    assert found["F1"] == pytest.approx(100 * (1.0 + (2 / 3 + 1 + 1) / 3) / 2)
    assert found["exact match"] == pytest.approx(100 * (1.0 + 2 / 3) / 2)


def test_summaries_are_asked_for_with_and_without_the_hint(tmp_path: Path) -> None:
    with_hint, without = (prompt for prompt, _ in prompts("cnn-dailymail", tmp_path)[0])
    assert with_hint == without + "\nTL;DR:"
    assert "@highlight" not in without and without.startswith("A ferry ran aground")
    right = "Ferry runs aground near harbour. Nobody was hurt! And passengers were taken to a school."

    def says(prompt: str) -> str:
        return right + " And more." if "TL;DR" in prompt else "Nothing."

    found = values(run("cnn-dailymail", tmp_path, Oracle(says=says)))
    assert [found[f"{name}, with the hint"] for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L", "ROUGE")] == [100.0] * 4
    assert found["ROUGE, without hint"] == 0.0
    assert 0.0 < found["ROUGE-1, first sentences"] < 100.0


@pytest.mark.parametrize(("name", "shift"), [("wmt14-en-fr", 0), ("wmt14-fr-en", 1)])
def test_translation_shows_pairs_and_scores_the_first_sentence(name: str, shift: int, tmp_path: Path) -> None:
    lines = [("The house number {} is old .", "La maison numéro {} est vieille .")[:: 1 - 2 * shift]][0]
    asked = prompts(name, tmp_path)
    assert len(asked) == 3
    shown = "".join(f"{lines[0].format(i)} = {lines[1].format(i)}\n" for i in range(5))
    assert asked[0][0][0] == f"{shown}{lines[0].format(5)} ="

    def says(prompt: str) -> str:
        number = prompt.rstrip(" =").split("\n")[-1].split()[3]
        return f" {lines[1].format(number)} And more."

    assert values(run(name, tmp_path, Oracle(says=says)))["BLEU"] == pytest.approx(100.0)


def test_translation_reads_sgm(tmp_path: Path) -> None:
    for kind, language, text in (("src", "en", "Tom &amp; Eve {}"), ("ref", "fr", "Tom et Eve {}")):
        segments = "".join(f'<seg id="{i}">{text.format(i)}</seg>\n' for i in range(7))
        (tmp_path / f"newstest2014-fren-{kind}.{language}.sgm").write_text(f"<srcset><doc>{segments}</doc></srcset>")
    sentence = load_task("wmt14-en-fr").read(tmp_path)[1]
    assert (sentence.source, sentence.target) == ("Tom & Eve 6", "Tom et Eve 6")


def test_questions_show_examples_and_score_the_most_confident(tmp_path: Path) -> None:
    asked = [prompt for ((prompt, _),) in prompts("natural-questions", tmp_path)]
    assert asked[0].endswith("A: 1945\nQ: who keeps the light?\nA:")
    assert asked[1].endswith("Q: how tall is the tower?\nA:")
    says = Oracle(says=lambda prompt: " ames" if "light" in prompt else " no idea")
    found = values(run("natural-questions", tmp_path, says))
    assert found == {"exact match": 50.0, "exact match, most confident 1 %": 100.0}


def test_trivia_is_compared_as_its_evaluation_does(tmp_path: Path) -> None:
    found = values(run("triviaqa", tmp_path, Oracle(says=lambda _: " the light_house!")))
    assert found["exact match"] == 100.0


def test_continuations_are_greedy_but_for_summaries(tmp_path: Path) -> None:
    reader = Reader(gpt2_tokenizer(), 1024, 1024)
    for name, greedy in (("coqa", True), ("wmt14-en-fr", True), ("triviaqa", True), ("cnn-dailymail", False)):
        task = load_task(name)
        for request in task.requests(task.read(write_sample(name, tmp_path))[0], reader):
            assert isinstance(request, Continuation)
            assert request.options.greedy is greedy
            assert request.options.stop_tokens == (50256,)
            if not greedy:
                assert (request.options.top_k, request.options.max_new_tokens) == (2, 100)


def test_sentences_end_at_marks_and_lines() -> None:
    assert sentences('One. "Two?" Three!\nFour\n\nU.S.') == ["One.", '"Two?"', "Three!", "Four", "U.S."]


# What is published.


def test_published_scores_are_for_released_models() -> None:
    assert {preset(name) for name in SIZES.values()} == {preset(size) for size in SIZES}
    assert size_of(preset("124M")) == "124M"
    assert size_of(CONFIG) is None
    for published in PUBLISHED.values():
        assert set(published.values) <= {*SIZES, "Lede-3"}


# Plugins.


PLUGIN = """
from gpt2spec.hookspecs import hookimpl
from gpt2spec.tasks.info import TaskInfo
from gpt2spec.tasks.task import Task, mean_score

class Parrots(Task):
    def read(self, path):
        return path.read_text().split()
    def requests(self, example, reader):
        return [reader.likelihood(example, " " + example)]
    def scores(self, examples, asked, reader):
        return [mean_score("accuracy", [all(each.likely[0].greedy) for each in asked], "a word after itself")]

def broken():
    raise RuntimeError("no parrots")

@hookimpl
def gpt2spec_tasks():
    return {returned}
"""
CARD = "TaskInfo({name!r}, 'a test', 'words', {factory!r})"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A registry with one plugin module of the given source, which is unloaded afterwards."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(returned: str) -> PluginRegistry:
        (tmp_path / "parrot_plugin.py").write_text(PLUGIN.replace("{returned}", returned))
        return PluginRegistry([EntryPoint("parrot", "parrot_plugin", "gpt2spec")])

    yield make
    sys.modules.pop("parrot_plugin", None)


def theirs(registry: PluginRegistry) -> list[TaskListing]:
    return [listing for listing in task_listings(registry) if listing.plugin.name == "parrot"]


def test_third_party_tasks_are_found_and_run(registry: Any, tmp_path: Path) -> None:
    found = registry(f"[{CARD.format(name='parrots', factory='parrot_plugin:Parrots')}]")
    assert [listing.name for listing in theirs(found)] == ["parrots"]
    (tmp_path / "words").write_text("polly parrot")
    task = load_task("parrots", found)
    result = evaluate(task, "parrots", tmp_path / "words", Oracle(lambda *_: -0.5))  # type: ignore[arg-type]
    assert values(result) == {"accuracy": 100.0}


@pytest.mark.parametrize(
    ("returned", "fault"),
    [
        ("1 / 0", "ZeroDivisionError"),
        ("None", "returned None, not a list of TaskInfo"),
        ("['x']", "returned 'x', not a gpt2spec.tasks.info.TaskInfo"),
        ("[TaskInfo('p', '', '', 'a:b', api_version=9)]", "version 9 of the tasks' contract"),
        ("[TaskInfo('', '', '', 'a:b')]", "a task's name is a text, not ''"),
        ("[TaskInfo('p', '', '', 'ab')]", "factory is 'package.module:callable', not 'ab'"),
        ("[TaskInfo('lambada', '', '', 'a:b')]", "the name is claimed by plugin 'gpt2spec'"),
    ],
)
def test_broken_task_plugin_is_told_and_harms_no_other(registry: Any, returned: str, fault: str) -> None:
    found = registry(returned)
    (listing,) = theirs(found)
    assert fault in listing.plugin.fault
    assert load_task("hellaswag", found)
    with pytest.raises(PluginError, match=r"is broken"):
        load_task(listing.name, found)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("parrot_plugin:broken", r"RuntimeError: no parrots \(.*parrot_plugin.py:\d+\)"),
        ("parrot_plugin:absent", "AttributeError"),
        ("builtins:str", "returned ''"),
    ],
)
def test_task_that_cannot_be_made_is_told(registry: Any, factory: str, message: str) -> None:
    found = registry(f"[{CARD.format(name='parrots', factory=factory)}]")
    with pytest.raises(PluginError, match=f"task 'parrots' failed: .*{message}"):
        load_task("parrots", found)


def test_mistyped_task_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no task 'lambda' \(did you mean 'lambada'\?\)"):
        load_task("lambda")


def test_name_cards_say_where_data_are() -> None:
    for info in TASKS:
        assert info.summary and len(info.data) > 10
        assert json.dumps(info.name)
        load_task(info.name)
