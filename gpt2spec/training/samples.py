"""Samples of text that a model under training writes."""

from gpt2spec.decoding.loop import extend
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import GrowingText
from gpt2spec.tokenizer import text_of
from gpt2spec.training.reports import Reports
from gpt2spec.training.run import Run
from gpt2spec.training.run_directory import SAMPLES


class Samples:
    """The samples during a run: a `Callback`."""

    def __init__(self, run: Run, every: int, length: int, reports: Reports) -> None:
        """Write samples of `length` tokens, one every `every` steps, or none where that is 0."""
        self._run, self._every, self._length, self._reports = run, every, length, reports

    def due(self, step: int) -> bool:
        """A sample is due every so many steps."""
        return self._every > 0 and step % self._every == 0

    def run(self) -> None:
        """Show a sample, and add it to the run's."""
        step, tokenizer = self._run.step, self._run.tokenizer
        assert tokenizer is not None  # checked before the run began
        prompt, text = (text_of(tokenizer, tokens) for tokens in sample(self._run, self._length))
        self._reports.message(f"step {step:>6}  sample: {text!r}")
        self._reports.record(SAMPLES, {"step": step, "prompt": prompt, "text": text})


def sample(run: Run, length: int) -> tuple[list[int], list[int]]:
    """A continuation of the validation text's beginning: the prompt, and at most `length` new tokens."""
    backend, config = run.backend, run.config
    prompt = run.dataset.val.shards[0][: min(32, config.n_ctx // 2)].tolist()
    room = min(length, config.n_ctx - len(prompt))
    options = GenerateOptions(max_new_tokens=room, temperature=0.8, top_k=40, seed=run.settings.seed)
    text = GrowingText(0, 0, prompt, 0, options, None)
    pieces = extend(backend, config, backend.decoding_params(run.state["params"]), [text], options, streaming=False)
    return prompt, [piece.choice.token for piece in pieces if piece.choice is not None]
