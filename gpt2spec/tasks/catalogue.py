"""The tasks that come with gpt2spec, as `TaskInfo`; the modules that implement them are not imported here."""

from gpt2spec.tasks.info import TaskInfo

_TEXTS = "gpt2spec.tasks.language_modelling:"
_WIKITEXT = "from the WikiText archives (S. Merity; CC BY-SA)"

TASKS = (
    TaskInfo(
        "wikitext-2",
        "perplexity of Wikipedia articles, de-tokenised",
        f"wiki.test.tokens of WikiText-2, {_WIKITEXT}",
        _TEXTS + "wikitext_2",
    ),
    TaskInfo(
        "wikitext-2-raw",
        "the same articles as they are",
        f"wiki.test.raw of WikiText-2 raw, {_WIKITEXT}",
        _TEXTS + "wikitext_2_raw",
    ),
    TaskInfo(
        "wikitext-103",
        "the same articles, with the larger vocabulary",
        f"wiki.test.tokens of WikiText-103, {_WIKITEXT}",
        _TEXTS + "wikitext_103",
    ),
    TaskInfo(
        "ptb",
        "perplexity of the Penn Treebank",
        "ptb.test.txt of T. Mikolov's simple-examples.tgz (fit.vutbr.cz/~imikolov/rnnlm)",
        _TEXTS + "penn_treebank",
    ),
    TaskInfo(
        "1bw",
        "perplexity of single sentences of news",
        "news.en.heldout-00000-of-00050 of the 1 Billion Word benchmark (statmt.org/lm-benchmark)",
        _TEXTS + "billion_words",
    ),
    TaskInfo(
        "enwik8", "bits per byte of Wikipedia's source", "enwik8 (mattmahoney.net/dc/enwik8.zip)", _TEXTS + "enwik8"
    ),
    TaskInfo("text8", "bits per character of its letters", "text8 (mattmahoney.net/dc/text8.zip)", _TEXTS + "text8"),
    TaskInfo(
        "lambada",
        "the last word of a passage",
        "lambada_test.jsonl, OpenAI's form (openaipublic.blob.core.windows.net/gpt-2/data), "
        "or lambada_test_plain_text.txt (zenodo.org/record/2630551)",
        "gpt2spec.tasks.lambada:Lambada",
    ),
    TaskInfo(
        "cbt-cn",
        "a common noun in a sentence of a children's book",
        "cbtest_CN_valid_2000ex.txt of CBTest.tgz (The bAbI project, fb.ai/babi)",
        "gpt2spec.tasks.cbt:common_nouns",
    ),
    TaskInfo(
        "cbt-ne",
        "a name in a sentence of a children's book",
        "cbtest_NE_valid_2000ex.txt of CBTest.tgz (The bAbI project, fb.ai/babi)",
        "gpt2spec.tasks.cbt:named_entities",
    ),
    TaskInfo(
        "winograd",
        "whom a pronoun means",
        "WSCollection.xml (cs.nyu.edu/~davise/papers/WinogradSchemas), or wsc273.txt "
        "(github.com/vid-koci/bert-commonsense)",
        "gpt2spec.tasks.winograd:Winograd",
    ),
    TaskInfo(
        "storycloze",
        "the right end of a story",
        "the .csv with labels of the Story Cloze Test, on request (cs.rochester.edu/nlp/rocstories)",
        "gpt2spec.tasks.choices:StoryCloze",
    ),
    TaskInfo(
        "hellaswag",
        "what happens next",
        "hellaswag_val.jsonl (github.com/rowanz/hellaswag)",
        "gpt2spec.tasks.choices:HellaSwag",
    ),
    TaskInfo(
        "coqa",
        "questions in a conversation about a passage",
        "coqa-dev-v1.0.json (stanfordnlp.github.io/coqa)",
        "gpt2spec.tasks.coqa:CoQA",
    ),
    TaskInfo(
        "cnn-dailymail",
        "summaries of news, with TL;DR: and without",
        "a folder of .story files of the test split (cs.nyu.edu/~kcho/DMQA), or JSON lines with article and highlights",
        "gpt2spec.tasks.summarisation:Summaries",
    ),
    TaskInfo(
        "wmt14-en-fr",
        "translation into French",
        "a folder with newstest2014-fren-src.en.sgm and -ref.fr.sgm (statmt.org/wmt14), or with NAME.en and NAME.fr",
        "gpt2spec.tasks.translation:english_to_french",
    ),
    TaskInfo(
        "wmt14-fr-en",
        "translation into English",
        "a folder with newstest2014-fren-src.fr.sgm and -ref.en.sgm (statmt.org/wmt14), or with NAME.en and NAME.fr",
        "gpt2spec.tasks.translation:french_to_english",
    ),
    TaskInfo(
        "natural-questions",
        "questions asked of a search engine",
        "NQ-open.dev.jsonl (github.com/google-research-datasets/natural-questions, nq_open)",
        "gpt2spec.tasks.questions:natural_questions",
    ),
    TaskInfo(
        "triviaqa",
        "trivia questions",
        "unfiltered-web-dev.json of triviaqa-unfiltered.tar.gz (nlp.cs.washington.edu/triviaqa)",
        "gpt2spec.tasks.questions:trivia_qa",
    ),
)
