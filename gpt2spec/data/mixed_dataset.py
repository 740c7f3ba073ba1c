"""This module opens several data sets as one, a mixture in which each has its share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpt2spec.data.dataset import Dataset, first_tokens, open_dataset
from gpt2spec.data.mixture import mixed
from gpt2spec.data.prepare import entropy_of
from gpt2spec.data.shards import count_tokens
from gpt2spec.errors import ConfigError


def open_mixture(sets: Sequence[str], **how: Any) -> Dataset:
    """Open several data sets as one mixture.

    A path may be followed by `:WEIGHT`. Windows are drawn in proportion to the weights, or, without weights, in
    proportion to the number of windows of each data set.

    Args:
        sets: the paths; either all have a weight or none has.
        how: arguments for `open_dataset`.

    Raises:
        ConfigError: for weights that are not positive, for weights that only some data sets have, and for data sets of
            different tokenizers.
        DataError: for a data set that cannot be opened.
    """
    paths, given = zip(*map(path_and_weight, sets), strict=True)
    missing = [path for path, weight in zip(paths, given, strict=True) if weight is None]
    if missing and any(weight is not None for weight in given):
        raise ConfigError(f"{missing[0]} has no weight, but other sets have: give each one, as in {missing[0]}:2")
    weights = None if missing else [float(weight) for weight in given]
    opened = [open_dataset(path, **how) for path in paths]
    for each in opened:
        if each.tokenizer_id != opened[0].tokenizer_id:
            raise ConfigError(
                f"{opened[0].name} was made by the tokenizer {opened[0].tokenizer_id}, {each.name} by "
                f"{each.tokenizer_id}; sets that are mixed need the same"
            )
    contents = json.dumps([[each.fingerprint for each in opened], weights])
    return Dataset(
        name="+".join(each.name for each in opened),
        train=mixed([each.train for each in opened], weights),
        val=mixed([each.val for each in opened], weights),
        vocab_size=max(each.vocab_size for each in opened),
        tokenizer_id=opened[0].tokenizer_id,
        unigram_entropy=_entropy(opened, weights),
        source=", ".join(sets),
        fingerprint=hashlib.sha256(contents.encode()).hexdigest(),
        folder=opened[0].folder,
        checksums=tuple(dict.fromkeys(checksum for each in opened for checksum in each.checksums)),
    )


def path_and_weight(text: str) -> tuple[Path, float | None]:
    """Split `PATH:WEIGHT`. The weight is None where no number follows the last colon."""
    path, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return Path(text), None
    return (Path(path), weight) if colon and path else (Path(text), None)


def _entropy(opened: Sequence[Dataset], weights: Sequence[float] | None) -> float:
    """The unigram entropy of the mixture in nats, estimated from the first tokens of each data set."""
    shares = np.array(weights or [len(each.train) for each in opened], np.float64)
    size = max(each.vocab_size for each in opened)
    total = np.zeros(size)
    for each, share in zip(opened, shares / shares.sum(), strict=True):
        counts = count_tokens(first_tokens(each.train))
        total[: len(counts)] += share * counts / max(1, counts.sum())
    return entropy_of(total)
