"""Scores that were published for GPT-2, by task and measure.

Sources: "Language Models are Unsupervised Multitask Learners" (Radford et al. 2019), table 3 and sections 3.1 to 3.8.
"""

from types import MappingProxyType

from gpt2spec.config import PRESETS, GPT2Config
from gpt2spec.tasks.task import Published

SIZES = MappingProxyType({"124M": "gpt2", "355M": "gpt2-medium", "774M": "gpt2-large", "1558M": "gpt2-xl"})
"""The presets of the released models, by the names of the scores' columns."""

TABLE = "Radford et al. 2019, table 3"
TEXT = "Radford et al. 2019, section "


def _table(*values: float, caveat: str = "") -> Published:
    return Published(dict(zip(SIZES, values, strict=True)), TABLE, caveat)


def _largest(value: float, section: str, caveat: str = "") -> Published:
    return Published({"1558M": value}, TEXT + section, caveat)


def _lede(value: float) -> Published:
    return Published({"Lede-3": value}, TEXT + "3.6, table 4", "there, sentences and words are cut by other rules")


OWN_DETOKENISER = "the paper's de-tokenisers and windows are not published"

PUBLISHED = MappingProxyType(
    {
        "wikitext-2": _table(29.41, 22.76, 19.93, 18.34, caveat=OWN_DETOKENISER),
        "wikitext-103": _table(37.50, 26.37, 22.05, 17.48, caveat=OWN_DETOKENISER),
        "wikitext-2-raw": Published(
            {"124M": 29.94},
            "Hugging Face, on GPT-2's perplexity with a stride of 1024",
            "there, lines are joined otherwise, and the first token is not predicted",
        ),
        "ptb": _table(65.85, 47.33, 40.31, 35.76, caveat=OWN_DETOKENISER),
        "1bw": _table(75.20, 55.72, 44.575, 42.16, caveat=OWN_DETOKENISER),
        "enwik8": _table(1.16, 1.01, 0.97, 0.93, caveat="the paper's windows are not published"),
        "text8": _table(1.17, 1.06, 1.02, 0.98, caveat="the paper's windows are not published"),
        "lambada perplexity": _table(35.13, 15.60, 10.87, 8.63, caveat="elsewhere, the released 124M reaches 40.06"),
        "lambada last token": _table(
            45.99, 55.48, 60.12, 63.24, caveat="the paper counts words; reproductions get there with last tokens"
        ),
        "lambada last word": Published({"124M": 32.56}, "EleutherAI's lm-eval, lambada_openai", "no line feed before"),
        "cbt-cn": _table(87.65, 92.35, 93.45, 93.30),
        "cbt-ne": _table(83.4, 87.1, 88.0, 89.05),
        "winograd": _largest(70.70, "3.4", "the paper does not say which scoring this is"),
        "coqa": _largest(55.0, "3.5", "read off the text, on the development set"),
        "rouge-1": _largest(29.34, "3.6, table 4"),
        "rouge-2": _largest(8.27, "3.6, table 4"),
        "rouge-l": _largest(26.58, "3.6, table 4"),
        "rouge": _largest(21.40, "3.6, table 4"),
        "rouge-1 without hint": _largest(21.58, "3.6, table 4"),
        "rouge-2 without hint": _largest(4.03, "3.6, table 4"),
        "rouge-l without hint": _largest(19.47, "3.6, table 4"),
        "rouge without hint": _largest(15.03, "3.6, table 4"),
        "rouge-1 first sentences": _lede(40.38),
        "rouge-2 first sentences": _lede(17.66),
        "rouge-l first sentences": _lede(36.62),
        "rouge first sentences": _lede(31.55),
        "wmt14-en-fr": _largest(5.0, "3.7", "the paper's pairs in the context are not published"),
        "wmt14-fr-en": _largest(11.5, "3.7", "the paper's pairs in the context are not published"),
        "nq": _largest(4.1, "3.8", "the paper's pairs in the context are not published"),
        "nq most confident": _largest(63.1, "3.8", "the paper's pairs in the context are not published"),
        "hellaswag": Published({"124M": 28.92}, "EleutherAI's lm-eval"),
        "hellaswag by length": Published({"124M": 31.14}, "EleutherAI's lm-eval"),
    }
)


def published(name: str) -> Published | None:
    """The published scores for a measure, or None."""
    return PUBLISHED.get(name)


def size_of(config: GPT2Config) -> str | None:
    """The name of the released model with this shape, such as "124M"; None for other shapes."""

    def shape(one: GPT2Config) -> tuple[int, ...]:
        return one.n_layer, one.n_head, one.n_embd, one.n_ctx, one.vocab_size

    return next((size for size, preset in SIZES.items() if shape(PRESETS[preset]) == shape(config)), None)
