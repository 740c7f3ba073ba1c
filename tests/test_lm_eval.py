"""With equal weights, lm-eval gives the same results with our model, with Hugging Face's, and in our own tasks."""

import gzip
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from task_samples import WIKITEXT, write_sample

import gpt2spec
from gpt2spec.checkpoints.native import TrainingState, save_checkpoint
from gpt2spec.checkpoints.opening import open_checkpoint
from gpt2spec.config import GPT2Config
from gpt2spec.errors import CheckpointError, ConfigError
from gpt2spec.parameters import initial_parameters
from gpt2spec.tasks.evaluate import Model, evaluate
from gpt2spec.tasks.registry import load_task
from gpt2spec.tokenizer import byte_tokenizer, gpt2_tokenizer
from gpt2spec.tokenizer.vocabulary import encoder_mapping

pytest.importorskip("lm_eval", reason="needs the extra lm-eval")
pytest.importorskip("accelerate", reason="needs accelerate, for lm-eval's own models")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of lm-eval's and its dependencies' own code
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIG = GPT2Config(n_layer=2, n_head=2, n_embd=32, n_ctx=64, dropout=0.0)

QUESTIONS = [
    {"query": "The kettle", "choices": ["boils over.", "is a kettle", "sings"], "gold": 0, "text": "a b"},
    {"query": "Rain falls " * 40, "choices": ["on the roof", "up", "not at all today"], "gold": 2, "text": "c d e"},
    {"query": "Four legs", "choices": ["good", "bad", "two"], "gold": 1, "text": "f"},
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, large enough for texts to differ, that read GPT-2's tokens."""
    params = {name: 4.0 * values for name, values in initial_parameters(CONFIG, seed=0).items()}
    zeros = {name: np.zeros_like(values) for name, values in params.items()}
    folder = tmp_path_factory.mktemp("runs") / "random"
    save_checkpoint(folder, CONFIG, params, TrainingState(zeros, zeros, {"step": 1, "tokenizer": gpt2_tokenizer().id}))
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Forbid the network, and use new caches."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HOME", "HF_DATASETS_CACHE", "LM_HARNESS_CACHE_PATH"):
            patch.setenv(name, str(tmp_path_factory.mktemp("cache")))
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.setenv(name, "1")
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations of four tasks over local files, like lm-eval's own."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in QUESTIONS))
    lambada = write_sample("lambada", folder) / "lambada_test.jsonl"
    texts = [json.loads(line)["text"].replace("\u201c", '"').replace("\u201d", '"') for line in lambada.open()]
    (folder / "passages.jsonl").write_text("".join(json.dumps({"text": "\n" + text}) + "\n" for text in texts))
    (folder / "articles.jsonl").write_text(json.dumps({"page": WIKITEXT * 3}) + "\n")
    write(
        folder,
        "our_lambada",
        "passages",
        output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' '+text.split(' ')[-1]}}",
        metric_list=[{"metric": "perplexity"}, {"metric": "acc"}],
    )
    write(
        folder,
        "our_wikitext",
        "articles",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{page}}",
        metric_list=[{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    )
    write(
        folder,
        "our_choices",
        "questions",
        output_type="multiple_choice",
        doc_to_text="{{query}}",
        doc_to_choice="choices",
        doc_to_target="{{gold}}",
        metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}],
    )
    write(
        folder,
        "our_generation",
        "questions",
        output_type="generate_until",
        doc_to_text="{{query}}",
        doc_to_target="{{text}}",
        generation_kwargs={"until": ["\n", " the"], "max_gen_toks": 12, "do_sample": False},
        metric_list=[{"metric": "exact_match"}],
    )
    return folder


def write(folder: Path, name: str, data: str, **config: Any) -> None:
    files = {"test": str(folder / f"{data}.jsonl")}
    common = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    (folder / f"{name}.yaml").write_text(json.dumps({**common, **config}))  # JSON is YAML


@pytest.fixture(scope="module")
def evaluated(checkpoint: Path, tasks: Path, offline: None) -> Any:
    """lm-eval's results for a model in all four tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    names = ["our_lambada", "our_wikitext", "our_choices", "our_generation"]
    manager = TaskManager(include_path=str(tasks), include_defaults=False)

    def run(model: Any) -> dict[str, Any]:
        return lm_eval.simple_evaluate(
            model=model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True
        )

    return run


@pytest.fixture(scope="module")
def theirs(evaluated: Any, checkpoint: Path, tasks: Path) -> dict[str, Any]:
    """lm-eval's results with Hugging Face's model and tokenizer."""
    from lm_eval.models.huggingface import HFLM
    from transformers import GPT2LMHeadModel, GPT2TokenizerFast

    merges = gzip.decompress(files("gpt2spec.tokenizer").joinpath("vocab.bpe.gz").read_bytes())
    (tasks / "merges.txt").write_bytes(merges)
    (tasks / "vocab.json").write_text(json.dumps(encoder_mapping(gpt2_tokenizer().ranks)))
    tokenizer = GPT2TokenizerFast(vocab=str(tasks / "vocab.json"), merges=str(tasks / "merges.txt"))
    tokenizer.pad_token = tokenizer.eos_token
    model = GPT2LMHeadModel.from_pretrained(open_checkpoint(checkpoint).path).eval()
    return evaluated(HFLM(pretrained=model, tokenizer=tokenizer, batch_size=2, device="cpu", max_length=64))


def ours(checkpoint: Path, **arguments: Any) -> Any:
    from gpt2spec.lm_eval.model import GPT2SpecLM

    return GPT2SpecLM(checkpoint=str(checkpoint), **arguments)


@pytest.mark.parametrize(("backend", "batch_size"), [("numpy", 3), ("jax", "auto")])
def test_scores_are_those_of_hugging_faces_model(
    backend: str, batch_size: Any, evaluated: Any, theirs: dict[str, Any], checkpoint: Path
) -> None:
    found = evaluated(ours(checkpoint, backend=backend, batch_size=batch_size))
    for task, expected in theirs["results"].items():
        for measure, value in expected.items():
            if measure.endswith(",none") and not isinstance(value, str):
                assert found["results"][task][measure] == pytest.approx(value, rel=2e-4), (task, measure)
    for task, samples in theirs["samples"].items():
        for mine, right in zip(found["samples"][task], samples, strict=True):
            assert flat(mine["filtered_resps"]) == pytest.approx(flat(right["filtered_resps"]), rel=1e-4), task
    assert found["config"]["backend"] == backend


def flat(responses: Any) -> list[Any]:
    """All numbers and texts of a sample's responses; flags and texts as hashable for exact comparison."""
    if isinstance(responses, (list, tuple)):
        return [value for response in responses for value in flat(response)]
    return [float(responses)] if not isinstance(responses, str) else [float(ord(c)) for c in responses]


def test_own_tasks_agree_with_lm_eval(theirs: dict[str, Any], checkpoint: Path, tmp_path: Path) -> None:
    from gpt2spec.tasks.checkpoint import load_with_tokenizer

    config, params, tokenizer = load_with_tokenizer(checkpoint)
    model = Model(gpt2spec.load_backend("numpy"), config, params, tokenizer)
    lambada = evaluate(load_task("lambada"), "lambada", write_sample("lambada", tmp_path), model)
    found = {score.name: score.value for score in lambada.scores}
    expected = theirs["results"]["our_lambada"]
    assert found["perplexity of the last word"] == pytest.approx(expected["perplexity,none"], rel=1e-4)
    assert found["accuracy of the last word"] == pytest.approx(100.0 * expected["acc,none"])

    folder = write_sample("wikitext-2-raw", tmp_path)
    _, score = evaluate(load_task("wikitext-2-raw"), "wikitext-2-raw", folder, model).scores
    bits = -score.details["log_likelihood"] / len((WIKITEXT * 3).encode()) / np.log(2.0)
    assert bits == pytest.approx(theirs["results"]["our_wikitext"]["bits_per_byte,none"], rel=1e-5)


def test_command_line_is_lm_evals(
    checkpoint: Path, tasks: Path, offline: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gpt2spec.lm_eval.__main__ import main

    arguments = ["--model", "gpt2spec", "--model_args", f"checkpoint={checkpoint},backend=numpy,mode=reference"]
    monkeypatch.setattr("sys.argv", ["lm_eval", *arguments, "--tasks", str(tasks / "our_choices.yaml")])
    assert main() == 0
    assert "acc_norm" in capsys.readouterr().out


def test_mistakes_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from gpt2spec.lm_eval.__main__ import main
    from gpt2spec.lm_eval.model import GPT2SpecLM

    monkeypatch.setattr("lm_eval.__main__.cli_evaluate", GPT2SpecLM)
    assert main() == 2
    assert capsys.readouterr().err == "gpt2spec: error: lm-eval's model gpt2spec needs the argument checkpoint=PATH\n"


def test_model_arguments_come_before_lm_evals_options(checkpoint: Path) -> None:
    from gpt2spec.errors import BackendError
    from gpt2spec.lm_eval.model import GPT2SpecLM

    make, path = GPT2SpecLM.create_from_arg_string, f"checkpoint={checkpoint}"
    assert make(path, {"batch_size": 4, "device": "cuda:0", "max_batch_size": None}).model.batch_size == 4
    assert make(f"{path},batch_size=3,device=cpu", {"batch_size": 4, "device": "x"}).model.batch_size == 3
    with pytest.raises(BackendError, match="not on 'cuda:1'"):
        make(path, {"device": "cuda:1"})


def test_a_tokenizer_can_be_named_where_the_checkpoint_does_not_say_it(checkpoint: Path, tmp_path: Path) -> None:
    from gpt2spec.lm_eval.model import GPT2SpecLM

    config = CONFIG.replace(vocab_size=300)
    params = initial_parameters(config, seed=0)
    save_checkpoint(tmp_path / "run", config, params, TrainingState(params, params, {"step": 1}))
    with pytest.raises(CheckpointError, match="does not say which tokenizer"):
        GPT2SpecLM.create_from_arg_string(f"checkpoint={tmp_path / 'run'}")
    model = GPT2SpecLM.create_from_arg_string(f"checkpoint={tmp_path / 'run'},tokenizer=bytes")
    assert model.tokenizer_name == byte_tokenizer().id and model.tok_encode("The") == byte_tokenizer().encode("The")
    with pytest.raises(CheckpointError, match="not with bytes"):
        GPT2SpecLM.create_from_arg_string(f"checkpoint={checkpoint},tokenizer=bytes")


class Asked:
    """A request as lm-eval passes it."""

    def __init__(self, *args: Any) -> None:
        self.args = args


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_gen_toks": 64}, "64 new tokens leave no room in a context of 64 tokens"),
        ({"do_sample": True, "penalty_alpha": 0.5}, "gpt2spec has no generation setting 'penalty_alpha'"),
    ],
)
def test_settings_that_cannot_be_met_are_told(settings: dict[str, Any], message: str, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        ours(checkpoint).generate_until([Asked("a", settings)])


def test_generation_follows_its_settings(checkpoint: Path) -> None:
    model = ours(checkpoint)
    greedy = {"until": ["\n"], "max_gen_toks": 6}
    drawn = {**greedy, "do_sample": True, "temperature": 0.9, "top_k": 50}
    one, again, other = model.generate_until([Asked("The", greedy), Asked("The", greedy), Asked("The", drawn)], True)
    assert one == again != other
    backend, (config, params, tokenizer) = gpt2spec.load_backend("numpy"), load(checkpoint)
    (text,) = gpt2spec.generate(
        backend, config, params, ["The"], tokenizer=tokenizer, max_new_tokens=6, temperature=0.0, stop=["\n"]
    )
    assert one == text.text
    assert model.generate_until([Asked("", {"max_gen_toks": 2})], True)[0] is not None
    assert model.loglikelihood_rolling([Asked("")], True) == [0]


def load(checkpoint: Path) -> Any:
    from gpt2spec.tasks.checkpoint import load_with_tokenizer

    return load_with_tokenizer(checkpoint)
