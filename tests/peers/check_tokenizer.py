#!/usr/bin/env python3
"""`strata tokenize` against the `tokenizers` library: byte-level BPE trained here on a little text,
in the forms of GPT-2, Llama 3 and Qwen2, and every tokenizer.json of the repository. Unigram models
against `sentencepiece`. And the tokenizer.json that `strata convert` makes of a GGUF's tokenizer, in transformers."""

import os
import subprocess
import sys
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

from transformers import AutoTokenizer

import unigram
from common import ROOT, Checks, scratch
from contract import convert, tokenize

# The patterns are facts of the published tokenizer.json files of Llama 3 and Qwen2.
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

TRAINING_TEXT = [
    "The harbour lay quiet that morning; two boats, three gulls and a dog watched the tide go out.",
    "She'd counted 1234567 waves by noon, and he'll count 89 more: it isn't finished, we're sure.",
    "Der Fährmann schläft übers Jahr hinweg. Où est passée l'île déserte ? ¿Dónde está el niño?",
    "Корабль ушёл в море на рассвете. Το πλοίο έφυγε την αυγή. 船は夜明けに出た。배는 새벽에 떠났다.",
    "    for (int i = 0; i < 10; i++) {\n        sum += table[i];\n    }\n\treturn sum;\r\n",
] * 4

TEXTS = [
    "",
    " ",
    "\n",
    "a",
    "Hello, world!",
    "  leading and trailing  ",
    "tabs\tand\n\n\nnewlines\r\n and   runs    of spaces   \n  ",
    "I'm you're HE'LL THEY'VE it's 'tis 'S don't'd",
    "1 12 123 1234 12345 1234567890 3.14159 1,000,000 ٣٤٥ Ⅷ ½",
    "Cafe\u0301 Café ﬁ ① Å \u212b ｆｕｌｌ",
    "naïve façade — “quoted” … ‘single’",
    "Ελληνικά русский עברית العربية हिन्दी ไทย 日本語 한국어",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈🇩🇪 and \u200b zero width \ufeff",
    "x=y+z; /* C */ #include <stdio.h>\n\tif (a && !b) return -1;",
    "https://example.org/a?b=c&d=%20e#f user@example.org",
    "null\x00byte and \x07bell and \x7f",
    "\u3000ideographic\u00a0no-break\u2028line\u2029paragraph\x85next",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "The harbour lay quiet that morning" * 20,
]


def split(pattern):
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def train(pre_tokenizer, normalizer=None, ignore_merges=False):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken("<|begin|>", normalized=False)])
    begin = tokenizer.token_to_id("<|begin|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin|> $A", special_tokens=[("<|begin|>", begin)]
    )
    return tokenizer


def make_tokenizers():
    return {
        "gpt2": train(pre_tokenizers.ByteLevel(add_prefix_space=False)),
        "llama3": train(split(LLAMA3), ignore_merges=True),
        "qwen2": train(split(QWEN2), normalizer=normalizers.NFC()),
    }


def check(checks, name, path):
    tokenizer = Tokenizer.from_file(str(path))
    for special in (False, True):
        ours = tokenize(path, TEXTS, special=special)
        theirs = [tokenizer.encode(text, add_special_tokens=special).ids for text in TEXTS]
        wrong = [text for text, a, b in zip(TEXTS, ours, theirs) if a != b]
        good = not wrong and len(ours) == len(theirs)
        label = f"{name} ids{' with BOS and EOS' if special else ''}"
        detail = f"{len(theirs)} texts equal" if good else f"{len(wrong)} differ: {wrong[:1]!r}"
        checks.say(good, label, detail)


# How sentencepiece may normalise and split a text before its Unigram model sees it.
UNIGRAM_FORMS = {
    "nmt_nfkc": {},
    "nmt_nfkc, byte fallback": {"byte_fallback": True},
    "nfkc_cf": {"normalization_rule_name": "nfkc_cf"},
    "identity": {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    "no dummy prefix": {"add_dummy_prefix": False},
    "user's pieces": {"user_defined_symbols": ["walk", "<sep>"]},
}


def check_unigram(checks, name, path, texts):
    encode = unigram.encoder(path.read_bytes())
    texts = [text for text in texts if "\0" not in text]
    ours, theirs = tokenize(path, texts), [encode(text) for text in texts]
    wrong = [(text, a, b) for text, a, b in zip(texts, ours, theirs) if a != b]
    good = not wrong and len(ours) == len(theirs)
    detail = f"{len(theirs)} texts equal" if good else f"{len(wrong)} differ: {wrong[:1]!r}"
    checks.say(good, f"unigram {name} ids", detail)


def unigram_models():
    """Models trained here, and where STRATA_TEST_DATA is set sentencepiece's own of its tests."""
    for name, options in UNIGRAM_FORMS.items():
        path = scratch("unigram", name.replace(" ", "_"), "tokenizer.model")
        path.write_bytes(unigram.train(**options))
        yield name, path, TEXTS + unigram.TRAINING_TEXT[:5]
    if "STRATA_TEST_DATA" in os.environ:
        folder = Path(os.environ["STRATA_TEST_DATA"]) / "tok_spm_unigram"
        lines = (folder / "botchan.txt").read_text().splitlines()
        yield "of botchan", folder / "test_model.model", TEXTS + lines
        yield "of Japanese", folder / "test_ja_model.model", TEXTS + lines[:100]


def converted():
    """GGUF files: the bundled model, and where STRATA_TEST_DATA is set those of others."""
    yield "models/base", convert(ROOT / "models/base", scratch("gguf", "base.gguf"))
    others = [
        "llama2_tiny_random_gguf/llama-2-tiny-random",
        "gguf_stories260k_quantised/stories260K-F32",
    ]
    for name in others if "STRATA_TEST_DATA" in os.environ else []:
        yield name, Path(os.environ["STRATA_TEST_DATA"]) / f"{name}.gguf"


def check_converted(checks, name, path):
    output = convert(path, scratch("from_gguf", name.replace("/", "_")))
    tokenizer = AutoTokenizer.from_pretrained(output)
    for special in (False, True):
        ours = tokenize(path, TEXTS, special=special)
        theirs = [tokenizer(text, add_special_tokens=special).input_ids for text in TEXTS]
        label = f"{name} from GGUF, ids in transformers{' with BOS and EOS' if special else ''}"
        checks.equal(label, ours, theirs)


def main():
    checks = Checks()
    for name, tokenizer in make_tokenizers().items():
        path = scratch("tokenizers", name, "tokenizer.json")
        tokenizer.save(str(path))
        checks.attempt(f"{name} ids", lambda: check(checks, name, path))
    listed = subprocess.run(
        ["git", "ls-files", "*tokenizer.json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        checks.attempt(f"{line} ids", lambda: check(checks, line, ROOT / line))
    for name, path, texts in unigram_models():
        checks.attempt(f"unigram {name}", lambda: check_unigram(checks, name, path, texts))
    for name, path in converted():
        checks.attempt(f"{name} from GGUF", lambda: check_converted(checks, name, path))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
