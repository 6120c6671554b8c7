#!/usr/bin/env bash
# Makes the bundled base model from nothing: books, tokenizer, token files, training, export.
#   configs/base/make.sh [FOLDER OF ID.txt]      (without a folder the books are downloaded)
# Everything lands in build/base; build/base/stretch/model is what models/base holds.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=build/base
strata=build/strata
mkdir -p "$work/tokenizer"
python3 configs/base/books.py --out "$work/books" ${1:+--source "$1"}
"$strata" data bpe --vocab 4096 --out "$work/tokenizer/tokenizer.json" \
    --special '<|endoftext|>' --special '<|im_start|>' --special '<|im_end|>' "$work"/books/train/*.txt
cp configs/base/tokenizer_config.json configs/base/generation_config.json "$work/tokenizer/"
"$strata" data tokenize --tokenizer "$work/tokenizer" --out "$work/train.h5" "$work"/books/train/*.txt
"$strata" data tokenize --tokenizer "$work/tokenizer" --out "$work/held_out.h5" "$work"/books/held_out/*.txt
python3 configs/base/chats.py "$work"/books/train/*.txt > "$work/chats.jsonl"
"$strata" data tokenize --tokenizer "$work/tokenizer" --out "$work/chats.h5" "$work/chats.jsonl"
"$strata" train configs/base/train.yaml
"$strata" train configs/base/anneal.yaml
"$strata" train configs/base/stretch.yaml
