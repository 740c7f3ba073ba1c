"""A tokenizer is learned by the textbook's algorithm, and gpt2spec, tiktoken and transformers agree on it."""

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gpt2spec.cli.main import main
from gpt2spec.errors import ConfigError, DataError
from gpt2spec.tokenizer import (
    Tokenizer,
    byte_tokenizer,
    find_tokenizer,
    gpt2_tokenizer,
    read_tokenizer,
    recorded_tokenizer,
    train_tokenizer,
    write_tokenizer,
)
from gpt2spec.tokenizer.vocabulary import byte_characters

OPENAI_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PROSE = "".join(f"The {i}th line isn't like the other {i % 7} lines: œuvre, naïve, 中文 and 🦙!\n\n" for i in range(60))
Pair = tuple[str, str]

# Few letters, so that frequencies are often equal and words overlap themselves.
repetitive = st.lists(st.sampled_from(["a", "b", "c", "ab", " ", "aaa", "é", "\n", "1"]), max_size=60).map("".join)


def symbols(word: str) -> list[str]:
    return [byte_characters()[byte] for byte in word.encode()]


def merged(word: list[str], pair: Pair) -> list[str]:
    """`word` with the pair merged everywhere, from left to right."""
    result: list[str] = []
    for symbol in word:
        if result and (result[-1], symbol) == pair:
            result[-1] += " joined"  # so that it takes no part in the next pair
        else:
            result.append(symbol)
    return ["".join(pair) if symbol.endswith(" joined") else symbol for symbol in result]


def textbook_merges(text: str, count: int) -> list[Pair]:
    """The definition, word by word, with all pairs counted anew each time."""
    words = [(symbols(word), times) for word, times in Counter(regex.findall(OPENAI_PATTERN, text)).items()]
    ids = {symbol: i for i, symbol in enumerate(byte_characters().values())}
    merges: list[Pair] = []
    while len(merges) < count:
        pairs: Counter[Pair] = Counter()
        for word, times in words:
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append(best)
        ids["".join(best)] = len(ids)
        words = [(merged(word, best), times) for word, times in words]
    return merges


def textbook_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """In each word, the earliest merge that applies is made everywhere, until none applies."""
    pairs = [tuple(line.split(" ")) for line in tokenizer.merges.decode().splitlines()[1:]]
    order = {pair: i for i, pair in enumerate(pairs)}
    ids = {symbol: i for i, symbol in enumerate([*byte_characters().values(), *map("".join, pairs)])}
    result = []
    for piece in regex.findall(OPENAI_PATTERN, text):
        word = symbols(piece)
        while known := [pair for pair in itertools.pairwise(word) if pair in order]:
            word = merged(word, min(known, key=order.__getitem__))
        result += [ids[symbol] for symbol in word]
    return result


def merges_of(tokenizer: Tokenizer) -> list[Pair]:
    return [(left, right) for left, right in (line.split() for line in tokenizer.merges.decode().splitlines()[1:])]


@pytest.fixture(scope="module")
def learned() -> Tokenizer:
    return train_tokenizer([[PROSE]], 340)


@settings(max_examples=150)
@given(repetitive, st.integers(1, 40), repetitive)
@example("ab ba", 4, "abba")  # all pairs once: the lowest ids first
@example("aaaaa aaaa", 3, "aaaaaaa")
def test_merges_and_ids_are_the_textbook_s(text: str, count: int, other: str) -> None:
    expected = textbook_merges(text, count)
    tokenizer = train_tokenizer([[text]], 257 + len(expected))
    assert merges_of(tokenizer) == expected
    for sample in (text, other):
        assert tokenizer.encode(sample) == textbook_ids(tokenizer, sample)


def test_prose_is_learned_as_the_textbook_does(learned: Tokenizer) -> None:
    assert merges_of(learned) == textbook_merges(PROSE, 340 - 257)
    assert (learned.vocab_size, learned.end_of_text) == (340, 339)
    assert learned.encode(PROSE) == textbook_ids(learned, PROSE)


def test_how_the_text_is_cut_does_not_matter(learned: Tokenizer) -> None:
    draw = random.Random(0)
    cuts = sorted(draw.sample(range(len(PROSE)), 50))
    pieces = [PROSE[start:stop] for start, stop in zip([0, *cuts], [*cuts, None], strict=True)]
    assert train_tokenizer([iter(pieces)], 340).id == learned.id


def test_transformers_loads_the_folder_and_gives_the_same_ids(learned: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GPT2TokenizerFast

    write_tokenizer(tmp_path, learned)
    for theirs in (GPT2TokenizerFast.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert theirs(PROSE)["input_ids"] == learned.encode(PROSE) == read_tokenizer(tmp_path).encode(PROSE)
        assert theirs("<|endoftext|>")["input_ids"] == [learned.end_of_text]
        assert len(theirs) == learned.vocab_size


def test_a_folder_gives_the_tokenizer_back(learned: Tokenizer, tmp_path: Path) -> None:
    for number, tokenizer in enumerate((learned, gpt2_tokenizer(), byte_tokenizer())):
        folder = tmp_path / str(number) / "tokenizer"
        folder.mkdir(parents=True)
        write_tokenizer(folder, tokenizer)
        for found in (read_tokenizer(folder), find_tokenizer(str(folder.parent)), find_tokenizer(str(folder))):
            assert (found.id, found.vocab_size) == (tokenizer.id, tokenizer.vocab_size)


def test_a_tokenizer_json_is_read_as_well(learned: Tokenizer, tmp_path: Path) -> None:
    from transformers import GPT2TokenizerFast

    write_tokenizer(tmp_path, learned)
    GPT2TokenizerFast.from_pretrained(tmp_path).save_pretrained(tmp_path / "theirs")
    assert not (tmp_path / "theirs" / "merges.txt").exists()
    assert read_tokenizer(tmp_path / "theirs").id == learned.id
    (tmp_path / "theirs" / "tokenizer.json").write_text("[]")
    with pytest.raises(ConfigError, match="has no merges"):
        read_tokenizer(tmp_path / "theirs")


def test_openai_s_names_are_read_as_well(learned: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, learned)
    (tmp_path / "merges.txt").rename(tmp_path / "vocab.bpe")
    (tmp_path / "vocab.json").rename(tmp_path / "encoder.json")
    assert read_tokenizer(tmp_path).id == learned.id


def test_files_that_are_damaged_or_do_not_belong_together_are_refused(learned: Tokenizer, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, learned)
    good = learned.merges.decode()

    def refused(contents: str, match: str) -> None:
        (tmp_path / "merges.txt").write_text(contents, encoding="utf-8")
        with pytest.raises(ConfigError, match=match):
            read_tokenizer(tmp_path)

    refused("a b\n", "its first line is 'a b'")
    refused("#version: 0.2\na b\nc\n", "line 3 of .* is 'c', not two tokens")
    refused("#version: 0.2\nab c\n", "line 2 of .* is 'ab c', not two tokens that were made before")
    refused("#version: 0.2\na b\nb c\nab c\na bc\n", "line 5 of .* makes a token that there is already")
    refused(good[: good.rstrip().rindex("\n") + 1], "vocab.json does not belong to")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ConfigError, match=r"neither merges\.txt nor vocab\.bpe"):
        read_tokenizer(tmp_path)
    with pytest.raises(ConfigError, match=r"no tokenizer 'gpt' \(did you mean 'gpt2'\?\)"):
        find_tokenizer("gpt")


def test_a_recorded_tokenizer_is_the_one_with_its_id(learned: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not hold it"):
        recorded_tokenizer(learned.id, tmp_path)
    write_tokenizer(tmp_path, learned)
    assert recorded_tokenizer(learned.id, tmp_path).encode(PROSE) == learned.encode(PROSE)
    assert recorded_tokenizer(gpt2_tokenizer().id, tmp_path) is gpt2_tokenizer()
    with pytest.raises(ConfigError, match="bpe-0123 was used: it was exchanged"):
        recorded_tokenizer("bpe-0123", tmp_path)


def test_too_small_a_vocabulary_or_corpus_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"at least 257 entries, .*, not 256"):
        train_tokenizer([["text"]], 256)
    with pytest.raises(DataError, match="only 2 merges, for 259 entries, not 300"):
        train_tokenizer([["abc"]], 300)
    assert train_tokenizer([["abc"]], 257).encode("abc") == byte_tokenizer().encode("abc")


def test_the_command_writes_a_tokenizer_that_the_others_take(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "mine"
    corpus.mkdir()
    (corpus / "a.txt").write_text(PROSE, encoding="utf-8")
    command = ["tokenizer", "train", str(corpus), "--vocab-size", "300", "--out", str(out)]
    assert main(command) == 0
    assert capfd.readouterr().out.startswith("bpe-")
    assert sorted(path.name for path in out.iterdir()) == ["merges.txt", "tokenizer_config.json", "vocab.json"]
    assert merges_of(find_tokenizer(str(out))) == textbook_merges(PROSE, 43)
    assert main(command) == 2
    assert "mine exists" in capfd.readouterr().err
    assert main([*command[:3], "--vocab-size", "9999", "--out", str(tmp_path / "other")]) == 2
    assert "merges, for" in capfd.readouterr().err
    assert not list(tmp_path.glob("*other*"))


def test_without_a_corpus_the_language_reference_is_learned(tmp_path: Path) -> None:
    assert main(["tokenizer", "train", "--vocab-size", "300", "--out", str(tmp_path / "mine")]) == 0
    vocabulary = json.loads((tmp_path / "mine" / "vocab.json").read_text())
    assert (len(vocabulary), list(vocabulary)[-1]) == (300, "<|endoftext|>")


def test_ctrl_c_ends_learning_at_once() -> None:
    code = (
        "import itertools; from gpt2spec.tokenizer import train_tokenizer; print(flush=True)\n"
        "train_tokenizer(([f'word {i % 997}'] for i in itertools.count()), 300)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert err.rstrip().endswith("KeyboardInterrupt")


def test_learning_takes_memory_for_words_not_for_text() -> None:
    code = (
        "import resource; from gpt2spec.tokenizer import train_tokenizer\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3\n"
        "text = ''.join(f'word{i % 997} of many, ' for i in range(60_000))\n"
        "train_tokenizer([[text]], 300); before = peak()\n"
        "train_tokenizer([[text] * 30], 300); print(peak() - before)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(process.stdout) < 15, "MB, for 30 MB of text"
