"""Named optimizer settings, as published.

The peak learning rate belongs to a width: wider models want smaller ones (the GPT-2 paper tuned each size
by hand and published none), so a recipe scales it by (its width / n_embd). GPT-3's table 2.1 falls the same way.
"""

from dataclasses import dataclass
from types import MappingProxyType

from gpt2spec.errors import ConfigError, nearest
from gpt2spec.optimizer import AdamW


@dataclass(frozen=True)
class Recipe:
    """Optimizer, learning-rate schedule and dropout of a published training run.

    Attributes:
        source: where the numbers come from.
        adamw: the optimizer's settings.
        peak_lr: peak learning rate of a model `at_width` wide.
        at_width: see `peak_lr`.
        warmup: updates of linear warm-up, but no more than a tenth of a run.
        final_fraction: where the cosine ends, as a fraction of the peak.
        dropout: rate for the released sizes; None leaves the preset's own.
    """

    source: str
    adamw: AdamW
    peak_lr: float
    at_width: int
    warmup: int
    final_fraction: float
    dropout: float | None = None

    def lr(self, n_embd: int) -> float:
        """Peak learning rate of a model `n_embd` wide."""
        return self.peak_lr * self.at_width / n_embd

    def warmup_of(self, steps: int) -> int:
        """Updates of warm-up in a run of `steps` updates."""
        return min(self.warmup, steps // 10)


RECIPES: MappingProxyType[str, Recipe] = MappingProxyType(
    {
        "brief": Recipe(
            source="this specification's defaults: the GPT-2 paper, completed from GPT-3's",
            adamw=AdamW(),
            peak_lr=2.5e-4,
            at_width=1600,
            warmup=2000,
            final_fraction=0.0,
        ),
        "gpt3": Recipe(
            source="Brown et al. 2020, appendix B, the 125M model",
            adamw=AdamW(weight_decay=0.1, clip=1.0),
            peak_lr=6e-4,
            at_width=768,
            warmup=715,  # 375 million tokens of 2^19 a batch
            final_fraction=0.1,
            dropout=0.0,
        ),
        "nanogpt": Recipe(
            source="github.com/karpathy/nanoGPT, config/train_gpt2.py",
            adamw=AdamW(weight_decay=0.1, decay="matrices", clip=1.0),
            peak_lr=6e-4,
            at_width=768,
            warmup=2000,
            final_fraction=0.1,
            dropout=0.0,
        ),
        "llmc": Recipe(
            source="github.com/karpathy/llm.c, scripts/run_gpt2_124M.sh",
            adamw=AdamW(weight_decay=0.1, decay="matrices", clip=1.0),
            peak_lr=6e-4,
            at_width=768,
            warmup=700,
            final_fraction=0.0,
            dropout=0.0,
        ),
    }
)


def recipe(name: str) -> Recipe:
    """The recipe called `name`, or a `ConfigError` naming the nearest."""
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe {name!r}{nearest(name, RECIPES)}; there are {', '.join(RECIPES)}")
    return RECIPES[name]
