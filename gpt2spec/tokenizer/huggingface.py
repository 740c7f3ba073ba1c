"""This module checks that a Hugging Face tokenizer is of GPT-2's kind, from the settings in its JSON files.

tokenizer.json          everything: how a text is divided, the merges, the ids, and the added tokens
tokenizer_config.json   the class, settings that override those above, and added tokens
added_tokens.json       added tokens, in older folders

A setting that would give other ids is refused, and the message names it. Two things are not checked: `post_processor`
only adds tokens around a text, and padding and truncation belong to a call.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt2spec.errors import ConfigError
from gpt2spec.tokenizer.bpe import Tokenizer
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, encoder_mapping

CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes of `transformers` that read GPT-2's two files, or follow a `tokenizer.json`."""

# setting -> the values of GPT-2. An absent setting counts as the first of them, unless it is in `_NEEDED`.
_FIXED: dict[str, tuple[object, ...]] = {
    "model.type": ("BPE",),
    "normalizer": (None,),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False,),
    "pre_tokenizer.use_regex": (True,),
    "decoder.type": ("ByteLevel",),
    "model.dropout": (None, 0),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.byte_fallback": (False,),
    "model.ignore_merges": (False,),
}
_NEEDED = (
    "pre_tokenizer.type",
    "pre_tokenizer.add_prefix_space",
)  # without these, texts are not divided, or get a space


class Described(NamedTuple):
    """A `tokenizer.json` as read: merges as `left right`, the id of each token, and that of each added token."""

    merges: list[str]
    ids: dict[str, int]
    added: dict[str, int]


def described(contents: Any, name: str) -> Described:
    """Read a `tokenizer.json`. A `ConfigError` names the first setting of the file `name` that GPT-2 does not have."""
    if not isinstance(contents, dict) or not isinstance(contents.get("model"), dict):
        raise ConfigError(f"{name} has no merges: GPT-2's tokenizer is a byte-level BPE")
    for setting, allowed in _FIXED.items():
        value = _setting(contents, setting, None if setting in _NEEDED else allowed[0])
        if value not in allowed:
            raise _another_kind(name, setting, value, allowed[0])
    try:
        merges = [each if isinstance(each, str) else " ".join(each) for each in contents["model"]["merges"]]
        ids = {str(token): int(number) for token, number in contents["model"]["vocab"].items()}
        added = {str(each["content"]): int(each["id"]) for each in contents.get("added_tokens") or ()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name} has no merges and ids: GPT-2's tokenizer is a byte-level BPE") from error
    return Described(merges, ids, added)


def added_in_config(contents: Any, name: str, any_class: bool) -> dict[str, int]:
    """The tokens that a `tokenizer_config.json` adds. A `ConfigError` names a setting that GPT-2 does not have.

    With `any_class`, the class is not checked; a `tokenizer.json` in the same folder says what the class would.
    """
    if not isinstance(contents, dict):
        raise ConfigError(f"{name} is no configuration: a JSON object is expected")
    kind = contents.get("tokenizer_class")
    if kind is not None and kind not in CLASSES and not any_class:
        raise _another_kind(name, "tokenizer_class", kind, CLASSES[0])
    if contents.get("add_prefix_space"):
        raise _another_kind(name, "add_prefix_space", contents["add_prefix_space"], False)
    try:
        return {str(each["content"]): int(i) for i, each in (contents.get("added_tokens_decoder") or {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{name} is damaged: its added_tokens_decoder is no list of tokens") from error


def added_tokens(contents: Any, name: str) -> dict[str, int]:
    """The contents of an `added_tokens.json`, which older folders have: the id of each token."""
    if not isinstance(contents, dict) or not all(isinstance(number, int) for number in contents.values()):
        raise ConfigError(f"{name} is damaged: ids by tokens are expected")
    return contents


def check_described(whole: Described, tokenizer: Tokenizer, name: str) -> None:
    """Raise `ConfigError` where a `tokenizer.json` contradicts the tokenizer made from the merges beside it."""
    if whole.merges != tokenizer.merges.decode("utf-8").splitlines()[1:]:
        raise ConfigError(f"{name} does not belong to the merges beside it: it has others")
    check_added(whole.added, tokenizer, name)
    last = {token: number for token, number in whole.added.items() if number >= tokenizer.vocab_size}
    ids = {**whole.ids, **whole.added}
    check_ids({token: number for token, number in ids.items() if token not in last}, tokenizer, name)


def check_ids(ids: object, tokenizer: Tokenizer, name: str) -> None:
    """Raise `ConfigError` unless the file `name` gives every token the id that follows from the merges."""
    expected = encoder_mapping(tokenizer.ranks)
    found = ids if isinstance(ids, dict) else {}
    for token, number in reversed(expected.items()):  # other tokenizers begin with the token that is last here
        if found.get(token) != number:
            raise ConfigError(
                f"{name} does not belong to its merges, or is not of GPT-2's kind: the id of {token!r} is "
                f"{found.get(token)}, not {number}; ids are the 256 bytes in OpenAI's order, the merges in theirs, "
                f"and last {END_OF_TEXT}"
            )
    if extra := found.keys() - expected.keys():
        raise ConfigError(f"{name} does not belong to its merges: none of them makes {min(extra)!r}")


def check_added(added: Mapping[str, int], tokenizer: Tokenizer, name: str) -> None:
    """Raise `ConfigError` for an added token other than `<|endoftext|>` that has one of the tokenizer's ids.

    Added tokens with higher ids leave the others as they are; their texts are encoded as ordinary text.
    """
    for token, number in added.items():
        if (number < tokenizer.vocab_size) != (token == END_OF_TEXT):
            raise ConfigError(
                f"{name} is no tokenizer of GPT-2's kind: it adds {token!r} as token {number}; tokens other than "
                f"{END_OF_TEXT} are added from {tokenizer.vocab_size} on"
            )


def _setting(contents: dict[str, Any], setting: str, default: object) -> object:
    """The value of a setting such as `model.type`, or the default where it or what holds it is missing."""
    value: Any = contents
    for name in setting.split("."):
        if value is None or (isinstance(value, dict) and name not in value):
            return default
        value = value[name] if isinstance(value, dict) else value
    return value


def _another_kind(name: str, setting: str, value: object, expected: object) -> ConfigError:
    found = repr(value)[:80]
    return ConfigError(f"{name} is no tokenizer of GPT-2's kind: {setting} is {found}, GPT-2 has {expected!r}")
