"""The tasks that come with gpt2spec, as `TaskInfo`; the modules that implement them are not imported here."""

from gpt2spec.tasks.info import TaskInfo

_WIKITEXT = "from the WikiText archives (S. Merity; CC BY-SA)"


def _task(name: str, summary: str, data: str, factory: str) -> TaskInfo:
    """A task of ours, whose factory is `"module:callable"` in this package."""
    return TaskInfo(name, summary, data, f"gpt2spec.tasks.{factory}")


def _childrens_books(name: str, summary: str, kind: str, factory: str) -> TaskInfo:
    return _task(name, summary, f"cbtest_{kind}_valid_2000ex.txt of CBTest.tgz (The bAbI project, fb.ai/babi)", factory)


def _news(name: str, summary: str, source: str, target: str, factory: str) -> TaskInfo:
    files = f"newstest2014-fren-src.{source}.sgm and -ref.{target}.sgm (statmt.org/wmt14)"
    return _task(name, summary, f"a folder with {files}, or with NAME.en and NAME.fr", factory)


TASKS = (
    _task(
        "wikitext-2",
        "perplexity of Wikipedia articles, de-tokenised",
        f"wiki.test.tokens of WikiText-2, {_WIKITEXT}",
        "language_modelling:wikitext_2",
    ),
    _task(
        "wikitext-2-raw",
        "the same articles as they are",
        f"wiki.test.raw of WikiText-2 raw, {_WIKITEXT}",
        "language_modelling:wikitext_2_raw",
    ),
    _task(
        "wikitext-103",
        "the same articles, with the larger vocabulary",
        f"wiki.test.tokens of WikiText-103, {_WIKITEXT}",
        "language_modelling:wikitext_103",
    ),
    _task(
        "ptb",
        "perplexity of the Penn Treebank",
        "ptb.test.txt of T. Mikolov's simple-examples.tgz (fit.vutbr.cz/~imikolov/rnnlm)",
        "language_modelling:penn_treebank",
    ),
    _task(
        "1bw",
        "perplexity of single sentences of news",
        "news.en.heldout-00000-of-00050 of the 1 Billion Word benchmark (statmt.org/lm-benchmark)",
        "language_modelling:billion_words",
    ),
    _task(
        "enwik8",
        "bits per byte of Wikipedia's source",
        "enwik8 (mattmahoney.net/dc/enwik8.zip)",
        "language_modelling:enwik8",
    ),
    _task(
        "text8", "bits per character of its letters", "text8 (mattmahoney.net/dc/text8.zip)", "language_modelling:text8"
    ),
    _task(
        "lambada",
        "the last word of a passage",
        "lambada_test.jsonl, OpenAI's form (openaipublic.blob.core.windows.net/gpt-2/data), "
        "or lambada_test_plain_text.txt (zenodo.org/record/2630551)",
        "lambada:Lambada",
    ),
    _childrens_books("cbt-cn", "a common noun in a sentence of a children's book", "CN", "cbt:common_nouns"),
    _childrens_books("cbt-ne", "a name in a sentence of a children's book", "NE", "cbt:named_entities"),
    _task(
        "winograd",
        "whom a pronoun means",
        "WSCollection.xml (cs.nyu.edu/~davise/papers/WinogradSchemas), or wsc273.txt "
        "(github.com/vid-koci/bert-commonsense)",
        "winograd:Winograd",
    ),
    _task(
        "storycloze",
        "the right end of a story",
        "the .csv with labels of the Story Cloze Test, on request (cs.rochester.edu/nlp/rocstories)",
        "choices:StoryCloze",
    ),
    _task("hellaswag", "what happens next", "hellaswag_val.jsonl (github.com/rowanz/hellaswag)", "choices:HellaSwag"),
    _task(
        "coqa",
        "questions in a conversation about a passage",
        "coqa-dev-v1.0.json (stanfordnlp.github.io/coqa)",
        "coqa:CoQA",
    ),
    _task(
        "cnn-dailymail",
        "summaries of news, with TL;DR: and without",
        "a folder of .story files of the test split (cs.nyu.edu/~kcho/DMQA), or JSON lines with article and highlights",
        "summarisation:Summaries",
    ),
    _news("wmt14-en-fr", "translation into French", "en", "fr", "translation:english_to_french"),
    _news("wmt14-fr-en", "translation into English", "fr", "en", "translation:french_to_english"),
    _task(
        "natural-questions",
        "questions asked of a search engine",
        "NQ-open.dev.jsonl (github.com/google-research-datasets/natural-questions, nq_open)",
        "questions:natural_questions",
    ),
    _task(
        "triviaqa",
        "trivia questions",
        "unfiltered-web-dev.json of triviaqa-unfiltered.tar.gz (nlp.cs.washington.edu/triviaqa)",
        "questions:trivia_qa",
    ),
)
