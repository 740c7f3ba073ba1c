"""lm-eval's model `gpt2spec` is a GPT-2 on any backend. Importing this module registers it.

Requests are answered by `gpt2spec.tasks.evaluate.Model`, like those of our own tasks. `<|endoftext|>` in texts is the
special token, as for lm-eval's other models.
"""

from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs
from lm_eval.utils import simple_parse_args_string
from tqdm import tqdm

from gpt2spec.decoding.options import GenerateOptions
from gpt2spec.errors import ConfigError
from gpt2spec.plugins import load_backend
from gpt2spec.tasks.cache import AnswerCache
from gpt2spec.tasks.checkpoint import load_with_tokenizer
from gpt2spec.tasks.evaluate import Model, homogeneous_batches
from gpt2spec.tasks.requests import Continuation, Likelihood, Request, key_of

BATCH_SIZE = 16
MAX_GEN_TOKS = 256
"""New tokens if a task gives no number, as for lm-eval's other models, but at most half of the context."""
DEFAULT_DEVICE = "cuda:0"
"""lm-eval's default for `--device`, on any machine. The backend's own default is used in its place."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")


@register_model("gpt2spec")
class GPT2SpecLM(TemplateLM):
    """A checkpoint as a model of lm-eval.

    Its model arguments are `checkpoint`, a run directory or a checkpoint of any format; `step`; `tokenizer`, the name
    or folder of one, for a checkpoint that does not record it; `backend`; and the arguments of `load_backend`, which
    are `device`, `dtype` and the backend's own options.
    """

    def __init__(
        self,
        checkpoint: str = "",
        backend: str = "numpy",
        step: int | None = None,
        tokenizer: str | None = None,
        batch_size: int | str = BATCH_SIZE,
        max_batch_size: int | None = None,
        **options: Any,
    ) -> None:
        """Load the checkpoint and put it on the backend. Errors are those of opening checkpoints and backends."""
        super().__init__()
        if not checkpoint:
            raise ConfigError("lm-eval's model gpt2spec needs the argument checkpoint=PATH")
        size = BATCH_SIZE if str(batch_size).startswith("auto") else int(batch_size)
        config, params, encoding = load_with_tokenizer(Path(checkpoint), step, tokenizer)
        made = load_backend(backend, **options)
        self.model = Model(made, config, params, encoding, min(size, max_batch_size or size))
        self._info = {"backend": made.name, "model_device": made.device, "model_dtype": made.dtype}

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> "GPT2SpecLM":
        """Create the model from lm-eval's command line, with `--model_args` as one text."""
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> "GPT2SpecLM":
        """Create the model from lm-eval's command line; `--model_args` overrides its other options."""
        options = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if options.get("device") == DEFAULT_DEVICE:
            del options["device"]
        return cls(**{**options, **arg_dict})

    @property
    def eot_token_id(self) -> int:
        """The id of `<|endoftext|>`."""
        return self.model.reader.tokenizer.end_of_text

    @property
    def max_length(self) -> int:
        """The most tokens that the model reads."""
        return self.model.reader.n_ctx

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer's name and hash, which lm-eval uses as a key of cached requests."""
        return self.model.reader.tokenizer.id

    def get_model_info(self) -> dict[str, Any]:
        """The description of the model in lm-eval's results."""
        return dict(self._info)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The token ids of a text. No special tokens are added."""
        return self.model.reader.tokenizer.encode(string, special=True)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **more: Any
    ) -> list[tuple[float, bool]]:
        """The log-likelihood of each continuation, and whether greedy decoding would give it."""
        asked = [Likelihood(tuple(before or [self.eot_token_id]), tuple(after)) for _, before, after in requests]
        answers = self._answers(asked, "likelihoods", disable_tqdm)
        results = [(answer.total, all(answer.greedy)) for answer in answers]
        for (texts, _, _), result in zip(requests, results, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, result)
        return results

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in disjoint windows of the whole context; the last may overlap."""
        reader = self.model.reader
        asked = [reader.windows(self.tok_encode(request.args[0])) for request in requests]
        answers = iter(self._answers([window for each in asked for window in each], "windows", disable_tqdm))
        totals = [sum(next(answers).total for _ in each) for each in asked]
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """The text after each context, up to a stop string, `<|endoftext|>` or the largest number of tokens."""
        asked = [self._continuation(*request.args) for request in requests]
        texts = [answer.text for answer in self._answers(asked, "continuations", disable_tqdm)]
        for request, text in zip(requests, texts, strict=True):
            self.cache_hook.add_partial("generate_until", request.args, text)
        return texts

    def _continuation(self, context: str, settings: dict[str, Any]) -> Continuation:
        settings = dict(normalize_gen_kwargs(settings, min(MAX_GEN_TOKS, self.max_length // 2)))
        stop = tuple(text for text in handle_stop_sequences(settings.pop("until", None), eos=None) if text)
        most = int(settings.pop("max_gen_toks"))
        if not settings.pop("do_sample", False):
            settings = {**settings, "temperature": 0.0, "top_k": None, "top_p": None}
        unknown = [name for name in settings if name not in _SAMPLING]
        if unknown:
            raise ConfigError(f"gpt2spec has no generation setting {unknown[0]!r}; it has {', '.join(_SAMPLING)}")
        if most >= self.max_length:
            raise ConfigError(f"{most} new tokens leave no room in a context of {self.max_length} tokens")
        prompt = (self.tok_encode(context) or [self.eot_token_id])[-(self.max_length - most) :]
        options = GenerateOptions(max_new_tokens=most, stop=stop, stop_tokens=(self.eot_token_id,), **settings)
        return Continuation(tuple(prompt), options)

    def _answers(self, requests: list[Any], what: str, disable_tqdm: bool) -> list[Any]:
        """The answers in order. Equal requests are answered once."""
        different: list[Request] = list({key_of(request): request for request in requests}.values())
        cache = AnswerCache()
        with tqdm(total=len(different), desc=f"Computing {what}", disable=disable_tqdm) as bar:
            for batch in homogeneous_batches(different, self.model.batch_size, self.model.reader.n_ctx):
                cache.add(zip(batch, self.model.answer(batch), strict=True))
                bar.update(len(batch))
        return [cache[request] for request in requests]
