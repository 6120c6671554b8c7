#!/usr/bin/env python3
"""The learning rate of every step against transformers' schedulers, as its Trainer steps them."""

import sys

import torch
import transformers

from common import FIXTURES, Checks, distance
from contract import Training

STEPS, WARMUP, LR, MIN_LR = 24, 5, 1e-2, 1e-3
RATE = 1e-9  # of LR; the log has nine digits

SCHEDULES = {
    "constant": (0.0, lambda o: transformers.get_constant_schedule_with_warmup(o, WARMUP)),
    "linear": (0.0, lambda o: transformers.get_linear_schedule_with_warmup(o, WARMUP, STEPS)),
    "cosine": (0.0, lambda o: transformers.get_cosine_schedule_with_warmup(o, WARMUP, STEPS)),
    "cosine to min": (
        MIN_LR,
        lambda o: transformers.get_cosine_with_min_lr_schedule_with_warmup(
            o, WARMUP, STEPS, min_lr=MIN_LR
        ),
    ),
    "wsd": (
        0.0,
        lambda o: transformers.get_wsd_schedule(
            o, WARMUP, STEPS // 4, num_training_steps=STEPS, decay_type="linear"
        ),
    ),
}


def rates_of(make):
    """What the optimizer's steps are made with: the scheduler moves on after each."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


def check(checks, name, min_lr, make):
    train = {"schedule": name.split()[0], "lr": LR, "min_lr": min_lr, "warmup": WARMUP}
    train |= {"decay_fraction": 0.25, "export": False}
    tokens = [[1, 2, 3, 4, 5, 6, 7, 8]]
    run = Training("schedule", FIXTURES / "llama", tokens, steps=STEPS, train=train)
    checks.equal(f"{name} steps", len(run.rates), STEPS)
    checks.at_most(f"{name} rates", distance(run.rates, rates_of(make)), RATE * LR * 2)


def main():
    checks = Checks()
    for name, (min_lr, make) in SCHEDULES.items():
        checks.attempt(name, lambda: check(checks, name, min_lr, make))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
