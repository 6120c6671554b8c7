"""Unigram models made with the `sentencepiece` package, and the ids that it gives texts by them."""

import io

import sentencepiece

TRAINING_TEXT = [
    "The harbour lay quiet that morning; two boats, three gulls and a dog watched the tide go out.",
    "She counted 1234567 waves by noon, and he will count 89 more: nobody is finished, all are sure.",
    "Der Fährmann schläft übers Jahr hinweg. Où est passée l'île déserte ? ¿Dónde está el niño?",
    "Корабль ушёл в море на рассвете. Το πλοίο έφυγε την αυγή. 船は夜明けに出た。",
    "unhappy unhappily happily happiness walks walked walking talks talked talking",
] * 8

# A few rules of a kind each (one to one, to several, several to one, to nothing), so that the
# charsmap of the committed model is small; those of sentencepiece itself are 240 kB.
RULES = [
    ("FF21", "41"),  # a fullwidth A
    ("FF22", "42"),
    ("FB01", "66 69"),  # a ligature fi
    ("2460", "31"),  # a circled one
    ("65 301", "E9"),  # e with a combining acute accent
    ("2026", "2E 2E 2E"),  # an ellipsis
    ("200B", ""),  # a space of no width
    ("3000", "20"),
    ("A0", "20"),
    ("9", "20"),
]


def train(vocabulary=480, **options):
    """The bytes of a model."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TRAINING_TEXT),
        model_writer=model,
        model_type="unigram",
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def write_rules(path):
    path.write_text("".join(f"{a}\t{b}\n" for a, b in RULES))
    return path


def encoder(model):
    """text -> ids, without BOS and EOS."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    return lambda text: processor.encode(text)
