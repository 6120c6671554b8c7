#!/usr/bin/env python3
"""The text that the bundled base model was trained on: public-domain books of Project Gutenberg.

    python3 configs/base/books.py --out DIR [--source DIR] [--excerpts DIR]

Downloads each book (or reads ID.txt from --source), cuts Project Gutenberg's header, footer and
licence, joins the hard-wrapped lines of a paragraph, writes plain quotes and dashes, and leaves one
file a book in DIR/train and DIR/held_out. Whole books are held out: no sentence of theirs was trained
on. --excerpts gets a file of paragraphs from the middle of each of these: tests/fixtures/held_out. Needs
nothing beyond Python's standard library.
"""

import argparse
import pathlib
import re
import sys
import urllib.request

# Project Gutenberg number: title, author
TRAIN = {
  11: "Alice's Adventures in Wonderland, Carroll",
  12: "Through the Looking-Glass, Carroll",
  16: "Peter Pan, Barrie",
  35: "The Time Machine, Wells",
  36: "The War of the Worlds, Wells",
  45: "Anne of Green Gables, Montgomery",
  46: "A Christmas Carol, Dickens",
  47: "Anne of Avonlea, Montgomery",
  51: "Anne of the Island, Montgomery",
  54: "The Marvelous Land of Oz, Baum",
  55: "The Wonderful Wizard of Oz, Baum",
  74: "The Adventures of Tom Sawyer, Twain",
  76: "Adventures of Huckleberry Finn, Twain",
  98: "A Tale of Two Cities, Dickens",
  108: "The Return of Sherlock Holmes, Doyle",
  120: "Treasure Island, Stevenson",
  139: "The Lost World, Doyle",
  158: "Emma, Austen",
  215: "The Call of the Wild, London",
  236: "The Jungle Book, Kipling",
  271: "Black Beauty, Sewell",
  289: "The Wind in the Willows, Grahame",
  486: "Ozma of Oz, Baum",
  498: "Rebecca of Sunnybrook Farm, Wiggin",
  503: "The Blue Fairy Book, Lang",
  514: "Little Women, Alcott",
  517: "The Emerald City of Oz, Baum",
  540: "The Red Fairy Book, Lang",
  640: "The Yellow Fairy Book, Lang",
  641: "The Violet Fairy Book, Lang",
  730: "Oliver Twist, Dickens",
  766: "David Copperfield, Dickens",
  778: "Five Children and It, Nesbit",
  834: "The Memoirs of Sherlock Holmes, Doyle",
  910: "White Fang, London",
  1260: "Jane Eyre, Bronte",
  1342: "Pride and Prejudice, Austen",
  1400: "Great Expectations, Dickens",
  1448: "Heidi, Spyri",
  1450: "Pollyanna, Porter",
  1597: "Andersen's Fairy Tales, Andersen",
  1661: "The Adventures of Sherlock Holmes, Doyle",
  2591: "Grimms' Fairy Tales, Grimm",
  2701: "Moby Dick, Melville",
  2781: "Just So Stories, Kipling",
  3282: "The Brown Fairy Book, Lang",
}
HELD_OUT = {
  113: "The Secret Garden, Burnett",
  1874: "The Railway Children, Nesbit",
  2852: "The Hound of the Baskervilles, Doyle",
}

EXCERPT = 10000
URL = "https://www.gutenberg.org/cache/epub/{0}/pg{0}.txt"
START = re.compile(r"\*\*\* ?START OF (THIS|THE) PROJECT GUTENBERG.*|\*END\*?\s*THE SMALL PRINT.*")
END = re.compile(r"\*\*\* ?END OF (THIS|THE) PROJECT GUTENBERG|End of (The |the )?Project Gutenberg")
NOTES = re.compile(r"^(Produced by|\[Illustration|\[Transcriber|This etext|E-text|Transcribed)", re.I)
PLAIN = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "—": "--", "–": "-", "…": "...",
                       "\u00a0": " ", "_": "", "\ufeff": ""})


def body(text):
  """What lies between Project Gutenberg's header and footer."""
  lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
  start = max((i for i, line in enumerate(lines) if START.search(line)), default=-1)
  end = next((i for i, line in enumerate(lines) if i > start and END.search(line)), len(lines))
  if start < 0:
    raise ValueError("no start marker of Project Gutenberg")
  return "\n".join(lines[start + 1:end])


def clean(text):
  """Paragraphs of one line each, blank lines between, plain punctuation."""
  paragraphs = []
  for block in re.split(r"\n\s*\n", body(text).translate(PLAIN)):
    paragraph = " ".join(block.split())
    if paragraph and not NOTES.match(paragraph) and re.search(r"[A-Za-z]", paragraph):
      paragraphs.append(paragraph)
  return "\n\n".join(paragraphs) + "\n"


def excerpt(text):
  """Whole paragraphs from the middle on, EXCERPT characters or a little more."""
  paragraphs, taken, length = text.split("\n\n"), [], 0
  for paragraph in paragraphs[len(paragraphs) // 2:]:
    if length >= EXCERPT:
      break
    taken.append(paragraph)
    length += len(paragraph) + 2
  return "\n\n".join(taken).rstrip("\n") + "\n"


def read(number, source):
  if source:
    data = (source / f"{number}.txt").read_bytes()
  else:
    with urllib.request.urlopen(URL.format(number), timeout=60) as answer:
      data = answer.read()
  try:
    return data.decode("utf-8")
  except UnicodeDecodeError:
    return data.decode("latin-1")


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument("--source", type=pathlib.Path, help="a folder of ID.txt instead of the network")
  parser.add_argument("--excerpts", type=pathlib.Path, help="a folder for parts of the held-out books")
  arguments = parser.parse_args()
  for name, books in (("train", TRAIN), ("held_out", HELD_OUT)):
    folder = arguments.out / name
    folder.mkdir(parents=True, exist_ok=True)
    for number, title in books.items():
      try:
        text = clean(read(number, arguments.source))
      except (OSError, ValueError) as error:
        sys.exit(f"books.py: {number} ({title}): {error}")
      (folder / f"{number}.txt").write_text(text, encoding="utf-8")
      if arguments.excerpts and name == "held_out":
        arguments.excerpts.mkdir(parents=True, exist_ok=True)
        (arguments.excerpts / f"{number}.txt").write_text(excerpt(text), encoding="utf-8")
      print(f"{name} {number} {title}: {len(text)} characters", flush=True)


if __name__ == "__main__":
  main()
