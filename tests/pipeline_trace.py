"""pipeline_trace.py STAGES MICROBATCHES OUT.json: the trace of a 1F1B pipeline (Narayanan et al.,
arXiv:2006.09503) whose forwards take 1 ms and backwards 2 ms, messages no time."""

import json
import sys

FORWARD, BACKWARD = 1000, 2000  # us


def order(stage, stages, count):
    """(kind, microbatch) in the order in which the stage does them."""
    ahead = min(count, stages - stage)
    actions = [("forward", m) for m in range(ahead)]
    for m in range(count):
        actions.append(("backward", m))
        if ahead + m < count:
            actions.append(("forward", ahead + m))
    return actions


def simulate(stages, count):
    """{(kind, stage, microbatch): (begin, end)}"""
    done, left = {}, [order(s, stages, count) for s in range(stages)]
    free = [0] * stages
    while any(left):
        for stage in range(stages):
            if not left[stage]:
                continue
            kind, m = left[stage][0]
            if kind == "forward":
                needs = ("forward", stage - 1, m) if stage else None
            else:
                needs = ("backward", stage + 1, m) if stage + 1 < stages else ("forward", stage, m)
            if needs and needs not in done:
                continue
            begin = max(free[stage], done[needs][1] if needs else 0)
            end = begin + (FORWARD if kind == "forward" else BACKWARD)
            done[kind, stage, m] = (begin, end)
            free[stage] = end
            left[stage].pop(0)
    return done


def main():
    stages, count = int(sys.argv[1]), int(sys.argv[2])
    events, free = [], [0] * stages
    for (kind, stage, m), (begin, end) in sorted(simulate(stages, count).items(), key=lambda x: x[1]):
        common = {"ph": "X", "pid": stage, "tid": 0}
        if begin > free[stage]:  # waiting for the neighbour's message
            wait = {"cat": "exchange", "name": "up recv", "ts": free[stage]}
            events.append(common | wait | {"dur": begin - free[stage], "args": {"elements": 4096}})
        event = {"cat": kind, "name": f"{kind} {m}", "ts": begin, "dur": end - begin}
        events.append(common | event | {"args": {"microbatch": m}})
        free[stage] = end
    with open(sys.argv[3], "w", encoding="utf-8") as out:
        json.dump({"displayTimeUnit": "ms", "traceEvents": events}, out)


if __name__ == "__main__":
    main()
