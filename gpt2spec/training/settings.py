"""The settings of a training run: one flat dataclass, read from TOML and the command line, saved with the run."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import tomli_w

from gpt2spec.config import VOCAB_SIZE, GPT2Config, preset
from gpt2spec.errors import ConfigError, nearest
from gpt2spec.files import atomic_write
from gpt2spec.optimizer import AdamW, WarmupCosine
from gpt2spec.training.recipes import recipe

SHAPE = ("n_layer", "n_head", "n_embd", "n_ctx", "vocab_size", "layer_norm_epsilon")
"""The fields of a `GPT2Config` that weights decide."""


class UpdatePlan(NamedTuple):
    """The plan that all updates of a run follow.

    Attributes:
        adamw: the optimizer's settings.
        schedule: the learning rate of each update.
        windows: windows in an update.
        micro_batches: windows in each of the micro-batches that an update is computed in.
        context: tokens in a window.
        seed: the seed of the data order and of dropout.
    """

    adamw: AdamW
    schedule: WarmupCosine
    windows: int
    micro_batches: list[int]
    context: int
    seed: int


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides what a run computes. None means: as the preset and the recipe have it.

    Attributes:
        data: prepared folder, text, or token files; a list mixes them, `PATH:WEIGHT` each; None is the text of
            Python's language reference.
        verify_data: whether shards are compared with their checksums first.
        preset: the model's size.
        model: changes to the preset, by the field names of `GPT2Config`. Without one to `vocab_size`, the
            vocabulary is the data's.
        tokenizer: encodes raw text, by name or folder; None is the one with the preset's vocabulary.
        init_from: checkpoint of any format to begin with: its model instead of the preset's, and its weights.
        recipe: named optimizer settings.
        optimizer: changes to the recipe, by the field names of `AdamW`.
        backend: the backend that computes, by its name.
        device: the device, in the backend's words.
        dtype: the dtype that activations are computed in.
        parallel: how several devices share the work, in the backend's words; None, or "none" where a run is resumed
            without what it had, is its default.
        backend_options: further options of the backend.
        steps: updates in all.
        batch_size: windows computed at a time; an update's, unless it accumulates several.
        accumulate: batches of `batch_size` windows in an update, one after another; None is 1, or what
            `tokens_per_step` takes.
        tokens_per_step: tokens of an update, computed `batch_size` windows at a time, the last ones perhaps fewer.
        context: tokens in a window, at most the model's n_ctx; None is n_ctx.
        lr: peak learning rate.
        warmup: updates of warm-up.
        dropout: rate on the embedding sum and the residual branches.
        seed: the seed of weights, data order, dropout and samples.
        eval_every: updates between validations.
        eval_windows: windows of the validation split that are looked at.
        checkpoint_every: updates between checkpoints.
        checkpoint_format: "whole", which `transformers` loads, or "parts", sharded as the processes hold the weights;
            None is sharded where no process has all of them.
        keep: how many checkpoints are kept, the last ones.
        keep_every: those of steps that are its multiples are kept too; 0 is none.
        keep_best: that of the lowest validation loss is kept too, and a step is saved when it has it.
        patience: validations in a row without a new lowest loss after which training stops; 0 is never.
        spike: standard deviations above the mean of the last steps from which a loss or a gradient's norm is a spike;
            0 is never.
        on_spike: "stop" at a spike or a loss that is no number, or "skip" the update.
        sample_tokens: length of a sample; 0 is none.
        sample_every: updates between samples; 0 is one at the end.
        tasks: data of each task that the model is scored in, by the names and in the forms of `gpt2spec eval`.
        task_every: updates between such scores; 0 is at the end.
        task_limit: only so many examples of each task, the first ones; None is all.
        tensorboard: write TensorBoard's event files beside the metrics.
        device_flops: the most floating-point operations a second that the device can do, for `mfu` in the metrics.
    """

    data: str | list[str] | None = None
    verify_data: bool = True
    preset: str = "nano"
    tokenizer: str | None = None
    init_from: str | None = None
    recipe: str = "brief"
    backend: str = "numpy"
    device: str | None = None
    dtype: str = "float32"
    parallel: str | None = None
    steps: int = 600
    batch_size: int = 16
    accumulate: int | None = None
    tokens_per_step: int | None = None
    context: int | None = None
    lr: float | None = None
    warmup: int | None = None
    dropout: float | None = None
    seed: int = 0
    eval_every: int = 100
    eval_windows: int = 64
    checkpoint_every: int = 200
    checkpoint_format: str | None = None
    keep: int = 3
    keep_every: int = 0
    keep_best: bool = False
    patience: int = 0
    spike: float = 0.0
    on_spike: str = "stop"
    sample_tokens: int = 96
    sample_every: int = 0
    task_every: int = 0
    task_limit: int | None = None
    tensorboard: bool = False
    device_flops: float | None = None
    tasks: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    backend_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("steps", "batch_size", "eval_every", "eval_windows", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is at least 1, not {getattr(self, name)}")
        for name in ("seed", "sample_tokens", "sample_every", "task_every", "keep_every", "patience", "spike"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is at least 0, not {getattr(self, name)}")
        if self.on_spike not in ("stop", "skip"):
            raise ConfigError(f"on_spike is 'stop' or 'skip', not {self.on_spike!r}")
        if self.checkpoint_format not in (None, "whole", "parts"):
            raise ConfigError(f"checkpoint_format is 'whole' or 'parts', not {self.checkpoint_format!r}")
        if self.device_flops is not None and not self.device_flops > 0.0:
            raise ConfigError(f"device_flops is above 0, not {self.device_flops}")
        for name in ("accumulate", "tokens_per_step", "task_limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} is at least 1, not {value}")
        if self.accumulate is not None and self.tokens_per_step is not None:
            raise ConfigError("accumulate follows from tokens_per_step and batch_size: give one of the two")
        if not self.tasks and (self.task_every or self.task_limit):
            raise ConfigError("task_every and task_limit are of tasks: name one with --task TASK=PATH")
        if self.keep < 2:
            raise ConfigError(f"keep is at least 2, so that there is one left if the last is damaged, not {self.keep}")

    def resolved(self) -> RunSettings:
        """These settings with every None that a preset or recipe decides replaced by its value."""
        config = self.model_config()
        chosen = recipe(self.recipe)
        return dataclasses.replace(
            self,
            model=dataclasses.asdict(config),
            optimizer=dataclasses.asdict(self.adamw()),
            context=self.window(),
            lr=chosen.lr(config.n_embd) if self.lr is None else self.lr,
            warmup=chosen.warmup_of(self.steps) if self.warmup is None else self.warmup,
            dropout=config.dropout,
        )

    def model_config(self) -> GPT2Config:
        """The model: preset, then the recipe's dropout, then `model`, then `dropout`."""
        config = preset(self.preset)
        chosen = recipe(self.recipe)
        if chosen.dropout is not None:
            config = config.replace(dropout=chosen.dropout)
        config = config.replace(**self.model)
        if self.dropout is not None:
            config = config.replace(dropout=self.dropout)
        if self.context is not None and not 1 <= self.context <= config.n_ctx:
            raise ConfigError(f"context is from 1 to this model's n_ctx = {config.n_ctx}, not {self.context}")
        return config

    def window(self) -> int:
        """The number of tokens in a window."""
        return self.model_config().n_ctx if self.context is None else self.context

    def windows_per_step(self) -> int:
        """The number of windows in an update."""
        if self.tokens_per_step is None:
            return self.batch_size * (self.accumulate or 1)
        windows, rest = divmod(self.tokens_per_step, self.window())
        if rest or windows == 0:
            raise ConfigError(
                f"tokens_per_step is a multiple of the context, {self.window()} tokens, not {self.tokens_per_step}"
            )
        return windows

    def micro_batches(self) -> list[int]:
        """The numbers of windows of an update's micro-batches: `batch_size` each, and the rest for the last."""
        full, rest = divmod(self.windows_per_step(), self.batch_size)
        return [self.batch_size] * full + [rest] * (rest > 0)

    def update_plan(self) -> UpdatePlan:
        """The plan that all updates of the run follow."""
        return UpdatePlan(
            adamw=self.adamw(),
            schedule=self.schedule(),
            windows=self.windows_per_step(),
            micro_batches=self.micro_batches(),
            context=self.window(),
            seed=self.seed,
        )

    def check_shares(self, count: int) -> None:
        """Raise `ConfigError` unless so many devices can share the rows of every batch."""
        if self.batch_size % count or self.windows_per_step() % count:
            raise ConfigError(
                f"{count} devices share batches evenly: the batch_size, {self.batch_size}, and the windows of an "
                f"update, {self.windows_per_step()}, must be multiples of {count}"
            )

    def tokenizer_name(self) -> str:
        """The name of the tokenizer that encodes raw text."""
        if self.tokenizer is not None:
            return self.tokenizer
        return "bytes" if self.model_config().vocab_size < VOCAB_SIZE else "gpt2"

    def with_vocabulary(self, vocab_size: int) -> RunSettings:
        """These settings with the vocabulary size of the data, unless `model` gives one."""
        return dataclasses.replace(self, model={"vocab_size": vocab_size} | self.model)

    def with_model_of(self, config: GPT2Config) -> RunSettings:
        """These settings with the model `config` of a checkpoint; `model` may change what is no shape."""
        given = dataclasses.asdict(config)
        for name in SHAPE:
            if self.model.get(name, given[name]) != given[name]:
                raise ConfigError(f"model.{name} is {self.model[name]!r}, but {given[name]!r} in {self.init_from}")
        return dataclasses.replace(self, model=given | self.model)

    def adamw(self) -> AdamW:
        """The optimizer: the recipe's, changed by `optimizer`."""
        known = [each.name for each in dataclasses.fields(AdamW)]
        for name in self.optimizer:
            if name not in known:
                raise ConfigError(f"the optimizer has no {name!r}{nearest(name, known)}; it has {', '.join(known)}")
        return dataclasses.replace(recipe(self.recipe).adamw, **self.optimizer)

    def schedule(self) -> WarmupCosine:
        """The learning-rate schedule of the run."""
        settings = self.resolved()
        assert settings.lr is not None and settings.warmup is not None
        return WarmupCosine(settings.lr, settings.warmup, self.steps, recipe(self.recipe).final_fraction)


def same_shape(a: GPT2Config, b: GPT2Config) -> bool:
    """Whether two configurations compute the same from equal weights, apart from training."""
    return all(getattr(a, name) == getattr(b, name) for name in SHAPE)


def settings_from(values: dict[str, Any], source: str) -> RunSettings:
    """Make settings from a dict as TOML gives it. The message about an unknown key names `source`."""
    known = [each.name for each in dataclasses.fields(RunSettings)]
    for name in values:
        if name not in known:
            raise ConfigError(f"{source} has the unknown key {name!r}{nearest(name, known)}")
    return RunSettings(**values)


def read_toml(path: Path) -> dict[str, Any]:
    """Read the table in a TOML file; a `ConfigError` gives the line that is wrong."""
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def write_toml(path: Path, settings: RunSettings) -> None:
    """Write the settings that are not None."""
    values = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
    with atomic_write(path) as file:
        tomli_w.dump(values, file)


_TYPES: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
    "None": (type(None),),
    "dict[str, Any]": (dict,),
    "list[str]": (list,),
}

_IN_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "dict[str, Any]": "a table",
    "str | list[str]": "a text or a list of texts",
}


def _check_types(settings: RunSettings) -> None:
    for each in dataclasses.fields(settings):
        value = getattr(settings, each.name)
        allowed = tuple(kind for name in str(each.type).split(" | ") for kind in _TYPES[name])
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
            raise ConfigError(f"{each.name} is {_IN_WORDS[str(each.type).removesuffix(' | None')]}, not {value!r}")
    if isinstance(settings.data, list) and not (settings.data and all(isinstance(each, str) for each in settings.data)):
        raise ConfigError(f"data is a text or a list of texts, not {settings.data!r}")
    for name, path in settings.tasks.items():
        if not isinstance(path, str) or not path:
            raise ConfigError(f"tasks.{name} is the path of its data, not {path!r}")
