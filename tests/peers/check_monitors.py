#!/usr/bin/env python3
"""What a run writes for monitors, read by TensorBoard's own reader and by Prometheus' parser."""

import json
import sys

from prometheus_client.parser import text_string_to_metric_families
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common import FIXTURES, Checks, sequences_of
from contract import Training

FLOAT32 = 1e-6  # event files hold fp32
TAGS = {"train/loss": "loss", "train/gradient_norm": "grad_norm", "train/learning_rate": "lr"}
SAMPLES = {"strata_train_loss": "loss", "strata_train_gradient_norm": "grad_norm"}


def relative(pairs):
    return max(abs(a - b) / max(abs(b), 1e-30) for a, b in pairs)


def check(checks):
    run = Training("monitors", FIXTURES / "llama", sequences_of("llama")).directory
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    lines = [line for line in lines if line["kind"] == "train"]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    for tag, field in TAGS.items():
        scalars = events.Scalars(tag)
        checks.equal(f"{tag} steps", [s.step for s in scalars], [x["step"] for x in lines])
        pairs = [(s.value, x[field]) for s, x in zip(scalars, lines)]
        checks.at_most(f"{tag} in TensorBoard", relative(pairs), FLOAT32)
    families = text_string_to_metric_families((run / "metrics.prom").read_text())
    samples = {s.name: s for family in families for s in family.samples}
    for name, field in SAMPLES.items():
        checks.at_most(f"{name} in Prometheus", relative([(samples[name].value, lines[-1][field])]), 0)
    labels = {"run": str(run), "ranks": "1"}
    checks.equal("labels in Prometheus", samples["strata_train_loss"].labels, labels)


def main():
    checks = Checks()
    checks.attempt("monitors", lambda: check(checks))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
