"""What a model under training is asked between its steps: the validation loss, and a sample of text."""

from typing import Any

from gpt2spec.api import compiled_loss
from gpt2spec.backend import Backend
from gpt2spec.config import GPT2Config
from gpt2spec.data.batches import validation_batches
from gpt2spec.data.dataset import Dataset
from gpt2spec.decoding.loop import extend
from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.decoding.sequence import GrowingText
from gpt2spec.training.settings import RunSettings


def validation_loss(
    backend: Backend, config: GPT2Config, params: Any, dataset: Dataset, settings: RunSettings
) -> float:
    """Mean cross entropy in nats per token over the first windows of the validation split."""
    loss = compiled_loss(backend, config)
    total, count = 0.0, 0
    for tokens, targets in validation_batches(
        dataset.val, settings.batch_size, settings.window(), settings.eval_windows
    ):
        value = loss(params, backend.put(tokens), backend.put(targets))
        total += float(backend.to_numpy(value)) * targets.size
        count += targets.size
    return total / count


def sample(
    backend: Backend, config: GPT2Config, params: Any, dataset: Dataset, settings: RunSettings
) -> tuple[list[int], list[int]]:
    """A continuation of the validation text's beginning: prompt and new tokens."""
    prompt = dataset.val.shards[0][: min(32, config.n_ctx // 2)].tolist()
    room = min(settings.sample_tokens, config.n_ctx - len(prompt))
    options = GenerateOptions(max_new_tokens=room, temperature=0.8, top_k=40, seed=settings.seed)
    text = GrowingText(0, 0, prompt, 0, options, None)
    pieces = extend(backend, config, backend.decoding_params(params), [text], options, streaming=False)
    return prompt, [piece.choice.token for piece in pieces if piece.choice is not None]
