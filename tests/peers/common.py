"""What the check scripts share: where things are, how strata is run, how a check is reported."""

import json
import os
import pathlib
import subprocess

import numpy as np
from safetensors.numpy import load_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
FRESH = ROOT / "build" / "peers" / "fixtures"  # what run.sh has just made
SCRATCH = ROOT / "build" / "peers" / "scratch"
STRATA = pathlib.Path(os.environ.get("STRATA", ROOT / "build" / "strata"))
STRATA_TIMEOUT = 300  # seconds; every model here is tiny


class Checks:
    """Named comparisons. A check is one line; the last line is exactly 'N passed, N failed'."""

    def __init__(self):
        self.passed = self.failed = 0

    def say(self, good, name, detail):
        self.passed, self.failed = self.passed + bool(good), self.failed + (not good)
        print(f"{'pass' if good else 'FAIL'}  {name}: {detail}", flush=True)

    def at_most(self, name, measured, limit):
        self.say(bool(measured <= limit), name, f"{measured:.3g} (limit {limit:.3g})")

    def equal(self, name, ours, theirs):
        self.say(ours == theirs, name, "equal" if ours == theirs else f"{ours!r} is not {theirs!r}")

    def attempt(self, name, work):
        """Runs work(); whatever it raises is one failed check. None when it failed."""
        try:
            return work()
        except Exception as error:  # a broken answer of any kind is a failed comparison
            self.say(False, name, f"{type(error).__name__}: {error}")
            return None

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed", flush=True)
        return 1 if self.failed or not self.passed else 0


def strata(*arguments, text=None):
    """Runs build/strata and returns its standard output; a failure raises with its last lines."""
    command = [str(STRATA), *map(str, arguments)]
    if not STRATA.exists():
        raise FileNotFoundError(f"{STRATA} is not built")
    done = subprocess.run(
        command, input=text, capture_output=True, encoding="utf-8", timeout=STRATA_TIMEOUT, cwd=ROOT
    )
    if done.returncode != 0:
        last = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}: {last}")
    return done.stdout


def scratch(*parts):
    path = SCRATCH.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_tokens(path, sequences):
    path.write_text("".join(json.dumps({"tokens": list(map(int, s))}) + "\n" for s in sequences))
    return path


def numbered(tensors, prefix):
    """tensors prefix.0, prefix.1, ... as a list."""
    found = []
    while f"{prefix}.{len(found)}" in tensors:
        found.append(tensors[f"{prefix}.{len(found)}"])
    return found


def expected_of(name):
    return load_file(FIXTURES / name / "expected.safetensors")


def sequences_of(model):
    return [tokens.tolist() for tokens in numbered(expected_of(model), "tokens")]


def distance(ours, theirs):
    """Largest absolute difference; infinite where shapes differ or a value isn't a number."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return float("inf")
    worst = float(np.abs(ours - theirs).max(initial=0.0))
    return worst if np.isfinite(worst) else float("inf")


def relative(ours, theirs):
    """|ours - theirs| / |theirs| in the Euclidean norm."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if ours.shape != theirs.shape:
        return float("inf")
    ratio = float(np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), 1e-30))
    return ratio if np.isfinite(ratio) else float("inf")


def worst_distance(ours, theirs):
    if len(ours) != len(theirs):
        return float("inf")
    return max(distance(a, b) for a, b in zip(ours, theirs))
