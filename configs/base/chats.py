#!/usr/bin/env python3
"""Chat-shaped text for the last part of the base model's training, out of its own books.

    python3 configs/base/chats.py BOOK.txt ... > chats.jsonl

A paragraph is what the user says, the next one the answer; so the model meets the chat template's
tokens, learns to answer in a turn and to end it, and reads nothing but the books.
"""

import json
import random
import sys

SHORTEST, LONGEST, PAIRS_A_BOOK = 40, 400, 120


def pairs(path):
  with open(path, encoding="utf-8") as file:
    paragraphs = file.read().split("\n\n")
  for first, second in zip(paragraphs, paragraphs[1:]):
    if all(SHORTEST <= len(text) <= LONGEST for text in (first, second)):
      yield first.strip(), second.strip()


def main():
  draw = random.Random(1)
  chats = []
  for path in sys.argv[1:]:
    found = list(pairs(path))
    chats += draw.sample(found, min(PAIRS_A_BOOK, len(found)))
  draw.shuffle(chats)
  for user, assistant in chats:
    print(json.dumps({"messages": [{"role": "user", "content": user},
                                   {"role": "assistant", "content": assistant}]}))


if __name__ == "__main__":
  main()
