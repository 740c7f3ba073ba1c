"""Benchmark texts are written as people would, and come back exactly, whatever they are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_samples import WIKITEXT as SAMPLE

from gpt2spec.tasks.detokenise import BILLION_WORDS, PTB, RAW, WHOLE, WIKITEXT, Style

STYLES = pytest.mark.parametrize("style", [WIKITEXT, PTB, BILLION_WORDS], ids=["wikitext", "ptb", "1bw"])
PARTS = [*"ab.,:;?!()[]$%\"'-=é", "@-@", "@,@", "@.@", "'s", "n't", "'t", "Mr.", "U.S.", "1", "23", "a-b", "1,5", "=="]
WORDS = st.sampled_from([*PARTS, WHOLE, RAW, "", " ", "\n", "\r"])
TEXTS = st.text(max_size=60) | st.lists(WORDS, max_size=30).map(" ".join) | st.lists(WORDS, max_size=30).map("".join)


@STYLES
@given(text=TEXTS)
@settings(max_examples=300)
def test_every_text_comes_back(style: Style, text: str) -> None:
    assert style.tokenise(style.detokenise(text)) == text


@STYLES
@given(lines=st.lists(st.lists(WORDS.filter(str.strip), min_size=1, max_size=12), max_size=4))
@settings(max_examples=300)
def test_every_tokenised_text_comes_back(style: Style, lines: list[list[str]]) -> None:
    text = "".join(f"{style.pad}{' '.join(words)}{style.pad}\n" for words in lines)
    assert style.tokenise(style.detokenise(text)) == text


def test_wikitext_is_written_as_people_would() -> None:
    assert WIKITEXT.detokenise(SAMPLE) == (
        "\n= Harbour light =\n\n"
        'The light, built in 1,871, is a well-kept tower (12.5 m tall). Its keeper\'s log says "all <unk>".\n'
        "\n== History ==\n\nMr. Ames kept it until he couldn't climb the stairs; nobody has since.\n"
    )
    assert RAW not in WIKITEXT.detokenise(SAMPLE)


@pytest.mark.parametrize(
    ("style", "line", "natural"),
    [
        (PTB, " the u.s. did n't buy $ N of it 's \n", "the u.s. didn't buy $N of it's\n"),
        (BILLION_WORDS, 'He said , " Go , " and left .', 'He said, "Go," and left.'),
        (WIKITEXT, ' " One " and " two " . ', '"One" and "two".'),
        (WIKITEXT, " J. K. Ames , St. Ives ", "J. K. Ames, St. Ives"),
        (WIKITEXT, " 3 @.@ 14 , 1 @,@ 000 , co @-@ op ", "3.14, 1,000, co-op"),
        (WIKITEXT, " a real-hyphen ", f"a {WHOLE}real-hyphen"),
        (WIKITEXT, " Avenue. ", f"{WHOLE}Avenue."),
        (WIKITEXT, "no pad", f"{RAW}no pad"),
        (WIKITEXT, " \n \n", "\n\n"),
    ],
)
def test_lines_are_written_as_people_would(style: Style, line: str, natural: str) -> None:
    assert style.detokenise(line) == natural
    assert style.tokenise(natural) == line
