"""Makes tests/fixtures/vectors: quantized blocks with the values that the `gguf` package reads from
them, texts with the ids that `tokenizers` gives them by models/base/tokenizer.json, and with those
that `sentencepiece` gives them by a small Unigram model with a charsmap.

    make_vectors.py OUTPUT_DIRECTORY   (make_fixtures.py calls it; it needs no PyTorch)"""

import json
import pathlib
import struct
import sys

import gguf
import numpy as np
from gguf.quants import dequantize
from tokenizers import Tokenizer

import unigram

ROOT = pathlib.Path(__file__).resolve().parents[2]
BLOCKS = 3
# The types that strata reads; the byte offsets of a block's float16 scales.
SCALES = {
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
}

TEXTS = [
    "",
    " ",
    "  ",
    "     five spaces",
    "trailing   ",
    "\n",
    "\n\n\n",
    "\r\n\r\n",
    "\t\ttabs\tbetween",
    " \n \n ",
    "a\u00a0b\u2003c\u3000d",
    "zero\u200bwidth\u200djoiner\ufeff",
    "Hello, world!",
    "hello",
    " hello",
    "HELLO",
    "don't can't we'll I'm they've he'd it's",
    "DON'T IT'S",
    "\u2019s curly quote\u2019s",
    "0 1 12 123 1234 12345 123456789012345678901234567890",
    "3.14159, -2.5e-10, 0x1F, 1,000,000",
    "\u0661\u0662\u0663 \u096a\u096b \u2167 \u00bd \u00b2",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe",
    "cafe\u0301 n\u0303 (combining)",
    "\u1e9b\u0323 \ufb01 \uff21\uff22\uff23",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u03b1\u03b2\u03b3 \u0394\u03a9",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002",
    "\u3053\u3093\u306b\u3061\u306f \u30ab\u30bf\u30ab\u30ca",
    "\uc548\ub155\ud558\uc138\uc694",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0928\u092e\u0938\u094d\u0924\u0947",
    "\U0001f600\U0001f680\U0001f44d\U0001f3fd",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 flags \u2764\ufe0f",
    "\U0001d54f\U0001d7d9 \U00010348",
    "\ufffd\uffff\U0010ffff",
    "\u0000nul\u0000 inside",
    "\u0001\u0002\u007f\u0080\u009f",
    "int main(void) {\n    return 0;\n}\n",
    "def f(x):\n\treturn x**2 # comment\n",
    "for (i=0;i<n;++i){a[i]+=b[i]*c;}",
    "<html><body class=\"x\">&amp;</body></html>",
    "SELECT * FROM t WHERE a='b' AND c<>\"d\";",
    "https://example.org/path?q=1&r=%20#frag",
    "user@example.com",
    "C:\\Users\\x\\file.txt",
    "snake_case camelCase PascalCase kebab-case SCREAMING_CASE",
    "!!!???...---___***",
    "$100 \u20ac50 \u00a320 \u00a51000",
    "(nested [brackets {here}])",
    "a" * 40,
    "ab" * 30,
    "word " * 12,
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "xqzjv wkpqz bcdfg",
    "Once upon a time, there was a little girl named Lily.",
    "The quick brown fox jumps over the lazy dog.\nThe end.",
    "l1ne5 w1th d1g1t5 1n w0rd5",
    "\u00e9\n\u00e9 \n \u00e9",
]


def make_blocks(output):
    random = np.random.Generator(np.random.PCG64(20240607))
    tensors = {}
    for name, offsets in SCALES.items():
        kind = gguf.GGMLQuantizationType[name]
        size = gguf.GGML_QUANT_SIZES[kind][1]
        data = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for offset in offsets:  # any bits but those of infinities and NaN; the first is subnormal
            scale = random.uniform(-2, 2, BLOCKS).astype("<f2")
            scale[0] = np.float16(3e-6)
            data[:, offset : offset + 2] = scale.view(np.uint8).reshape(BLOCKS, 2)
        tensors[f"{name}.bytes"] = data.reshape(-1)
        tensors[f"{name}.values"] = dequantize(data, kind).reshape(-1).astype("<f4")
    for name in ("F16", "BF16"):
        bits = random.integers(0, 0x7B00, 32, dtype=np.uint16) | (
            random.integers(0, 2, 32, dtype=np.uint16) << 15
        )
        data = bits.astype("<u2").view(np.uint8)
        tensors[f"{name}.bytes"] = data
        kind = gguf.GGMLQuantizationType[name]
        values = data.view("<f2") if name == "F16" else dequantize(data, kind)
        tensors[f"{name}.values"] = values.reshape(-1).astype("<f4")
    write_safetensors(output / "blocks.safetensors", tensors)


def write_safetensors(path, tensors):
    header, offset = {}, 0
    for name, value in tensors.items():
        kind = {"uint8": "U8", "float32": "F32"}[value.dtype.name]
        end = offset + value.nbytes
        header[name] = {"dtype": kind, "shape": [value.size], "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(value.tobytes() for value in tensors.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def make_ids(output):
    tokenizer = Tokenizer.from_file(str(ROOT / "models" / "base" / "tokenizer.json"))
    special = [
        token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special
    ]
    texts = TEXTS + [
        special[0],
        "before " + " ".join(special) + " after",
        "".join(special),
        special[0] + special[0] + "x" + special[0][:-1],
    ]
    entries = []
    for text in texts:
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        whole = tokenizer.encode(text, add_special_tokens=True).ids
        shown = tokenizer.decode(plain, skip_special_tokens=False)
        entries.append({"text": text, "ids": plain, "with_special": whole, "decoded": shown})
    lines = ",\n".join(json.dumps(entry, ensure_ascii=True) for entry in entries)
    (output / "ids.json").write_text("[\n" + lines + "\n]\n")


NORMALISED = [
    "\uff21\uff22 \ufb01n \ufb01\ufb01 \u2460\u2460 e\u0301te\u0301 e \u0301",
    "wait\u2026 no\u200bspace \u3000 wide\u00a0\u00a0\ttabs",
    "unhappily walking, talked happily; unwalked untalking happywalks",
    "harbourtidegulls 1234567890 \u043a\u043e\u0440\u0430\u0431\u043b\u0438",
]


def make_unigram(output):
    """The model is kept where there is one: another processor may train other last bits."""
    kept = ROOT / "tests" / "fixtures" / "vectors" / "unigram.model"
    rules = unigram.write_rules(output / "rules.tsv")
    model = (
        kept.read_bytes()
        if kept.exists()
        else unigram.train(normalization_rule_tsv=str(rules), byte_fallback=True)
    )
    rules.unlink()
    (output / "unigram.model").write_bytes(model)
    encode = unigram.encoder(model)
    texts = [text for text in TEXTS + NORMALISED if "\0" not in text]
    lines = ",\n".join(json.dumps({"text": text, "ids": encode(text)}) for text in texts)
    (output / "unigram.json").write_text("[\n" + lines + "\n]\n")


def make_vectors(output):
    output.mkdir(parents=True)
    make_blocks(output)
    make_ids(output)
    make_unigram(output)


if __name__ == "__main__":
    make_vectors(pathlib.Path(sys.argv[1]))
