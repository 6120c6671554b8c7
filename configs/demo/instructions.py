#!/usr/bin/env python3
"""A small instruction set for the demo: simple facts, asked in several ways.

    python3 configs/demo/instructions.py train > train.jsonl
    python3 configs/demo/instructions.py held_out > held_out.jsonl

Every fact is asked in all of its kind's wordings; one wording of each kind is held out. So the
held-out loss tells whether the model learned to answer, not whether it remembers a line.
"""

import json
import random
import sys

OPPOSITES = """hot cold|big small|old young|day night|up down|wet dry|rich poor|long short|good bad|
happy sad|light dark|near far|early late|fast slow|high low|strong weak|hard soft|full empty|
open shut|first last|true false|clean dirty|thick thin|wide narrow|loud quiet|brave afraid"""
YOUNG = """dog puppy|cat kitten|cow calf|horse foal|sheep lamb|hen chicken|goose gosling|duck duckling|
lion cub|bear cub|pig piglet|goat kid|deer fawn|swan cygnet|frog tadpole"""
HOMES = """bird nest|bee hive|fish water|rabbit burrow|horse stable|lion den|spider web|king palace|
sailor ship|farmer farm|fox hole|bear cave|cow barn|soldier camp|owl tree"""
SOUNDS = """dog barks|cat mews|cow lows|horse neighs|sheep bleats|hen clucks|duck quacks|lion roars|
owl hoots|wolf howls|bee hums|mouse squeaks|pig grunts|snake hisses|crow caws"""

# wordings ({0}: what is asked about), the last of which is held out, and the answer
KINDS = [
  (OPPOSITES, ["What is the opposite of {0}?", "Tell me the opposite of {0}.",
               "Which word means the opposite of {0}?", "What word is opposite to {0}?"],
   "The opposite of {0} is {1}."),
  (YOUNG, ["What is a young {0} called?", "What do we call a young {0}?",
           "Tell me the name of a young {0}.", "What name has a young {0}?"],
   "A young {0} is called a {1}."),
  (HOMES, ["Where does a {0} live?", "Where is the home of a {0}?", "Tell me where a {0} lives.",
           "In what place does a {0} live?"],
   "The home of a {0} is the {1}."),
  (SOUNDS, ["What sound does a {0} make?", "How does a {0} speak?", "Tell me what a {0} does to be heard.",
            "What noise does a {0} make?"],
   "A {0} {1}."),
]


def examples(held_out):
  for table, wordings, answer in KINDS:
    for pair in table.replace("\n", "").split("|"):
      thing, other = pair.split()
      for wording in wordings[-1:] if held_out else wordings[:-1]:
        yield wording.format(thing), answer.format(thing, other)


def main():
  if sys.argv[1:] not in (["train"], ["held_out"]):
    sys.exit("usage: instructions.py train|held_out")
  chosen = list(examples(sys.argv[1] == "held_out"))
  random.Random(7).shuffle(chosen)
  for question, answer in chosen:
    print(json.dumps({"messages": [{"role": "user", "content": question},
                                   {"role": "assistant", "content": answer}]}))


if __name__ == "__main__":
  main()
