"""Small invented samples in the official formats of all tasks."""

import json
from collections.abc import Callable
from pathlib import Path

WIKITEXT = (
    " \n = Harbour light = \n \n"
    " The light , built in 1 @,@ 871 , is a well @-@ kept tower ( 12 @.@ 5 m tall ) . "
    'Its keeper \'s log says " all <unk> " . '
    "\n \n = = History = = \n \n Mr. Ames kept it until he couldn 't climb the stairs ; nobody has since . \n"
)
STORY = """A ferry ran aground near the old harbour on Monday.
Nobody was hurt, the coast guard said. The ferry will be towed on Tuesday.

Passengers were taken to a school.

@highlight

Ferry runs aground near harbour

@highlight

Nobody was hurt , and passengers were taken to a school
"""
CSV_HEAD = (
    "InputStoryid,InputSentence1,InputSentence2,InputSentence3,InputSentence4,"
    "RandomFifthSentenceQuiz1,RandomFifthSentenceQuiz2,AnswerRightEnding\n"
)


def wikitext(folder: Path) -> None:
    (folder / "wiki.test.tokens").write_text(WIKITEXT * 3, encoding="utf-8")
    (folder / "wiki.test.raw").write_text(WIKITEXT * 3, encoding="utf-8")


def ptb(folder: Path) -> None:
    text = " the company 's profit rose N N to $ N million \n it did n't say when <unk> would be sold \n"
    (folder / "ptb.test.txt").write_text(text * 4)


def billion_words(folder: Path) -> None:
    text = 'He said , " It is late , " and left .\nThe team didn \'t win ( again ) .\nWhy ?\n'
    (folder / "news.en.heldout-00000-of-00050").write_text(text)


def enwik8(folder: Path) -> None:
    (folder / "enwik8").write_bytes(("<page>naïve café ≥ 2 €</page>\n" * 120).encode())


def text8(folder: Path) -> None:
    (folder / "text8").write_text("the quick brown fox jumps over one two " * 80)


def lambada(folder: Path) -> None:
    texts = [
        "She looked at the lamp. \u201cBring me the lamp,\u201d she said, and he brought the lamp",
        "The dog ran to the gate. He opened the gate and out went the dog",
        "It was all there, and all of it was for her. It was for her",
    ]
    (folder / "lambada_test.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def cbt(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        lines = [f"{i} `` The fox {i} ran , '' said the hen ." for i in range(1, 21)]
        words = "fox|hen|barn|goose|hill|pond|door|wolf|road|cow"
        query = f"21 The hen saw the XXXXX , and did n't run .\tfox\t\t{words}"
        block = "\n".join([*lines, query])
        (folder / f"cbtest_{kind}_valid_2000ex.txt").write_text(f"{block}\n\n{block.replace('hen', 'cow')}\n\n")

    return write


def winograd(folder: Path) -> None:
    blocks = [
        "The cup fell off the table because  [MASK]  was wet. \n[MASK]\nThe cup ,The table \nThe table ",
        "Ann told Beth that [MASK] had won. \n[MASK]\nAnn,Beth\nBeth",
    ]
    (folder / "wsc273.txt").write_text("\n\n".join(blocks) + "\n\n")


def storycloze(folder: Path) -> None:
    rows = [
        'a1,Tom was tired.,He lay down.,"He closed his eyes, slowly.",It got dark.,He ran a race.,He fell asleep.,2',
        "a2,Eve baked.,The oven was hot.,She waited.,The bell rang.,She ate the cake.,She sold her car.,1",
    ]
    (folder / "cloze_test.csv").write_text(CSV_HEAD + "\n".join(rows) + "\n")


def hellaswag(folder: Path) -> None:
    rows = [
        {
            "ind": i,
            "activity_label": "Washing a car",
            "ctx_a": "A man holds a hose.",
            "ctx_b": "he",
            "ctx": "A man holds a hose. he",
            "endings": ["sprays the car [step] with water.", "eats  the hose.", "flies away [title] home", "sings"],
            "label": i % 4,
        }
        for i in range(5)
    ]
    (folder / "hellaswag_val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def coqa(folder: Path) -> None:
    document = {
        "story": "Lena has a red kite. She flies it on the beach.",
        "questions": [{"input_text": "What does Lena have?", "turn_id": 1}, {"input_text": "Where?", "turn_id": 2}],
        "answers": [{"input_text": "a kite", "turn_id": 1}, {"input_text": "on the beach", "turn_id": 2}],
        "additional_answers": {
            "0": [{"input_text": "a red kite", "turn_id": 1}, {"input_text": "the beach", "turn_id": 2}],
            "1": [{"input_text": "kite", "turn_id": 1}, {"input_text": "beach", "turn_id": 2}],
        },
    }
    (folder / "coqa-dev-v1.0.json").write_text(json.dumps({"version": "1.0", "data": [document]}))


def stories(folder: Path) -> None:
    (folder / "0a.story").write_text(STORY)
    (folder / "0b.story").write_text(STORY.replace("ferry", "barge"))


def translation(folder: Path) -> None:
    english = [f"The house number {i} is old ." for i in range(8)]
    french = [f"La maison numéro {i} est vieille ." for i in range(8)]
    (folder / "test.en").write_text("\n".join(english) + "\n", encoding="utf-8")
    (folder / "test.fr").write_text("\n".join(french) + "\n", encoding="utf-8")


def natural_questions(folder: Path) -> None:
    rows = [
        {"question": "who keeps the light", "answer": ["Mr. Ames", "Ames"]},
        {"question": "how tall is the tower?", "answer": ["12.5 m"]},
    ]
    (folder / "NQ-open.dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def triviaqa(folder: Path) -> None:
    answer = {"Value": "The Light-House", "Aliases": ["Lighthouse"], "NormalizedAliases": ["light house", "lighthouse"]}
    found = {"Data": [{"Question": "What stands at the harbour?", "QuestionId": "q1", "Answer": answer}]}
    (folder / "unfiltered-web-dev.json").write_text(json.dumps(found))


SAMPLES: dict[str, Callable[[Path], None]] = {
    "wikitext-2": wikitext,
    "wikitext-2-raw": wikitext,
    "wikitext-103": wikitext,
    "ptb": ptb,
    "1bw": billion_words,
    "enwik8": enwik8,
    "text8": text8,
    "lambada": lambada,
    "cbt-cn": cbt("CN"),
    "cbt-ne": cbt("NE"),
    "winograd": winograd,
    "storycloze": storycloze,
    "hellaswag": hellaswag,
    "coqa": coqa,
    "cnn-dailymail": stories,
    "wmt14-en-fr": translation,
    "wmt14-fr-en": translation,
    "natural-questions": natural_questions,
    "triviaqa": triviaqa,
}


def write_sample(task: str, folder: Path) -> Path:
    """Write the sample of a task into its own folder."""
    folder = folder / task
    folder.mkdir(parents=True, exist_ok=True)
    SAMPLES[task](folder)
    return folder
