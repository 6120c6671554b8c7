#!/usr/bin/env python3
"""The share of lines of C that were reached, a folder a line, from what gcov left in a build.

    coverage.py BUILD_FOLDER

A line counts once, however many times its file is compiled (for each instruction set) and whichever
program ran it; tests and benchmarks themselves are left out. BUILD_FOLDER/coverage.json has it by file,
with the numbers of the lines that nothing reached."""

import collections
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "core", "data", "parallel", "train", "serve", ".")


def gcov(notes):
    """(file, line, times) of one object; what it lacks of runs counts as never."""
    answer = subprocess.run(["gcov", "--json-format", "--stdout", str(notes)], capture_output=True,
                            text=True, check=True)
    found = []
    for text in answer.stdout.splitlines():
        report = json.loads(text)
        for file in report["files"]:
            path = pathlib.Path(os.path.normpath(
                os.path.join(report["current_working_directory"], file["file"])))
            if path.is_relative_to(ROOT):
                name = str(path.relative_to(ROOT))
                found += [(name, line["line_number"], line["count"]) for line in file["lines"]]
    return found


def collect(build):
    """{file: {line: whether it was reached}}"""
    lines = collections.defaultdict(dict)
    notes = sorted(build.rglob("*.gcno"))
    if not any(build.rglob("*.gcda")):
        sys.exit(f"coverage.py: nothing that ran left a trace in {build}")
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for found in pool.map(gcov, notes):
            for name, line, count in found:
                lines[name][line] = lines[name].get(line, False) or count > 0
    return lines


def folder_of(name):
    return name.split("/")[0] if "/" in name else "."


def say(what, counts):
    reached, lines = sum(c[0] for c in counts), sum(c[1] for c in counts)
    if lines:
        print(f"{what:10} {reached:6} of {lines:6} lines {100 * reached / lines:6.1f}%")


def main():
    build = pathlib.Path(sys.argv[1]).resolve()
    lines = {name: found for name, found in collect(build).items() if folder_of(name) in FOLDERS}
    counts = {name: (sum(found.values()), len(found)) for name, found in lines.items()}
    with open(build / "coverage.json", "w", encoding="utf-8") as out:
        json.dump({name: {"reached": counts[name][0], "lines": counts[name][1],
                          "missed": sorted(n for n, reached in found.items() if not reached)}
                   for name, found in sorted(lines.items())}, out, indent=1)
    for folder in FOLDERS:
        say("main.c" if folder == "." else folder,
            [count for name, count in counts.items() if folder_of(name) == folder])
    say("all", list(counts.values()))


if __name__ == "__main__":
    main()
