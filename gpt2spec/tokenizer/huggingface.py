"""Whether a Hugging Face tokenizer is of GPT-2's kind: what its JSON files say beside the merges.

tokenizer.json          everything: how a text is cut, the merges, the ids, and tokens that were added to them
tokenizer_config.json   the class, settings that stand above those, and added tokens
added_tokens.json       added tokens, in older folders

A setting that would give other ids is refused by its name. What is put around a text (`post_processor`) does not change
the ids of the text; padding and truncation belong to a call.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gpt2spec.errors import ConfigError
from gpt2spec.tokenizer.bpe import Tokenizer
from gpt2spec.tokenizer.vocabulary import END_OF_TEXT, encoder_mapping

CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizers of `transformers` that read GPT-2's two files, or whatever a `tokenizer.json` says."""

# setting -> what GPT-2 has; one that is absent counts as the first of these, unless it is `_NEEDED`
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
_NEEDED = ("pre_tokenizer.type", "pre_tokenizer.add_prefix_space")  # absent, texts are not cut, or get a space


class Described(NamedTuple):
    """What a `tokenizer.json` holds: merges, `left right` each, ids by characters, and the tokens added to those."""

    merges: list[str]
    ids: dict[str, int]
    added: dict[str, int]


def described(contents: Any, name: str) -> Described:
    """What a `tokenizer.json` holds; a `ConfigError` names the first setting of file `name` GPT-2 does not have."""
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
    """The tokens that a `tokenizer_config.json` adds; a `ConfigError` names a setting GPT-2 does not have.

    `any_class` is for a folder with a `tokenizer.json`, which says what a class would.
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
    """The contents of an `added_tokens.json`, which older folders have: ids by tokens."""
    if not isinstance(contents, dict) or not all(isinstance(number, int) for number in contents.values()):
        raise ConfigError(f"{name} is damaged: ids by tokens are expected")
    return contents


def check_described(whole: Described, tokenizer: Tokenizer, name: str) -> None:
    """Raise a `ConfigError` where a `tokenizer.json` says other than the tokenizer whose merges are in its folder."""
    if whole.merges != tokenizer.merges.decode("utf-8").splitlines()[1:]:
        raise ConfigError(f"{name} does not belong to the merges beside it: it has others")
    check_added(whole.added, tokenizer, name)
    last = {token: number for token, number in whole.added.items() if number >= tokenizer.vocab_size}
    ids = {**whole.ids, **whole.added}
    check_ids({token: number for token, number in ids.items() if token not in last}, tokenizer, name)


def check_ids(ids: object, tokenizer: Tokenizer, name: str) -> None:
    """Raise a `ConfigError` unless the file `name` gives every token the id that follows from the merges."""
    expected = encoder_mapping(tokenizer.ranks)
    found = ids if isinstance(ids, dict) else {}
    for token, number in reversed(expected.items()):  # the last is the one that others have first
        if found.get(token) != number:
            raise ConfigError(
                f"{name} does not belong to its merges, or is not of GPT-2's kind: the id of {token!r} is "
                f"{found.get(token)}, not {number}; ids are the 256 bytes in OpenAI's order, the merges in theirs, "
                f"and last {END_OF_TEXT}"
            )
    if extra := found.keys() - expected.keys():
        raise ConfigError(f"{name} does not belong to its merges: none of them makes {min(extra)!r}")


def check_added(added: Mapping[str, int], tokenizer: Tokenizer, name: str) -> None:
    """Raise a `ConfigError` for an added token other than `<|endoftext|>` that has one of the tokenizer's ids.

    Those after them leave the other ids as they are. What they stand for is ordinary text to us.
    """
    for token, number in added.items():
        if (number < tokenizer.vocab_size) != (token == END_OF_TEXT):
            raise ConfigError(
                f"{name} is no tokenizer of GPT-2's kind: it adds {token!r} as token {number}; tokens other than "
                f"{END_OF_TEXT} are added from {tokenizer.vocab_size} on"
            )


def _setting(contents: dict[str, Any], setting: str, default: object) -> object:
    """The value of `part.name`; the default where there is no such name, or part."""
    value: Any = contents
    for name in setting.split("."):
        if value is None or (isinstance(value, dict) and name not in value):
            return default
        value = value[name] if isinstance(value, dict) else value
    return value


def _another_kind(name: str, setting: str, value: object, expected: object) -> ConfigError:
    found = repr(value)[:80]
    return ConfigError(f"{name} is no tokenizer of GPT-2's kind: {setting} is {found}, GPT-2 has {expected!r}")
