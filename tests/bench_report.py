#!/usr/bin/env python3
"""The table of speed goals, from what the parts of tests/bench.sh printed.

    bench_report.py FOLDER --model DIRECTORY --threads N --started DATE --seconds N [--quick]

FOLDER holds parts.tsv (a line a part: name, exit status, seconds; or name, "left out", why) and
NAME.log of each part that ran. Prints a line a goal and writes FOLDER/report.json. A verdict is met,
MISSED, not run, CRASHED, or DOUBTED: more than its ceiling, which was measured badly. Exit status: 0
whether goals are met or missed or were not run, 1 when a part ended badly or printed no figure."""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys

SCALING_LINE = re.compile(
    r"^ *(\d+) +(\d+) +(\S.*?) +([\d.]+) +([\d.]+) +[\d.]+% .*/strong-\d+$", re.MULTILINE)
PIPELINE_LINE = re.compile(  # schedule, stages, microbatches, seconds, measured, simulated, off
    r"^(\S+) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +([\d.]+) +([+-][\d.]+)% ", re.MULTILINE)
RUN_NAMES = {"fp32": "fp32", "lora": "LoRA fp32", "bf16": "bf16"}
PEER_DEFAULT = {"fp32": "eager"}  # PyTorch's variant as it comes, where it isn't called as the kind
GEMM_TOKENS, GEMM_LEAST_SIDE = 1024, 256  # products bound by arithmetic; a LoRA rank is not
MATMUL_LINE = re.compile(
    r"^(forward|grad x|grad w) +(f32|bf16) +(\d+) +(\d+) +(\d+) +([\d.]+) +([\d.]+) +"
    r"([\d.]+) GFLOP/s +[\d.]+%", re.MULTILINE)
BUSY, DRIFT = 0.9, 1.1  # CPU share below which, and ratio beyond which, a figure is doubtful
IMPOSSIBLE = 1.05  # a share of a ceiling beyond this says that the ceiling met a busy machine
PRODUCTS = 0.85  # of the FMA peak that products bound by arithmetic shall reach
PAIRS = 2  # times the FMA peak: what dot products of bf16 pairs can reach


class NotRun(Exception):
    pass


class Crashed(Exception):
    pass


class Parts:
    """What ran and what it printed. Asking for the output of what did not run well raises."""

    def __init__(self, folder):
        self.folder = folder
        with open(os.path.join(folder, "parts.tsv")) as file:
            rows = [line.rstrip("\n").split("\t") for line in file]
        self.ended = {name: (status, rest) for name, status, rest in rows}

    def crashed(self):
        return [name for name, (status, _) in self.ended.items() if status not in ("0", "left out")]

    def text(self, name):
        if name not in self.ended:
            raise NotRun(f"{name} was not run")
        status, rest = self.ended[name]
        if status == "left out":
            raise NotRun(rest)
        if status != "0":
            raise Crashed(f"{name} ended with status {status}")
        with open(os.path.join(self.folder, name + ".log"), errors="replace") as file:
            return file.read()

    def objects(self, name):
        try:
            found = [json.loads(line) for line in self.text(name).splitlines() if line[:1] == "{"]
        except ValueError:
            found = []
        if not found:
            raise Crashed(f"no figures in {name}.log")
        return found

    def number(self, name, pattern):
        found = re.search(pattern, self.text(name), re.MULTILINE)
        if not found:
            raise Crashed(f"no figure in {name}.log")
        return float(found.group(1))


# --- the figures: each function gives (measured, what it is made of) ---------------------------------


def our_step(parts, kind):
    """Both runs of our step: tokens/s by the median over all steps, and by that of each run."""
    runs = [parts.objects(f"train_{kind}_{i}")[0] for i in (1, 2)]
    batch, context = map(int, re.search(r"B(\d+) T(\d+)", runs[0]["shape"]).groups())
    seconds = [s for run in runs for s in run["step_seconds"]]
    return batch * context / statistics.median(seconds), runs


def torch_step(parts, kind, ours):
    """PyTorch's variants of a kind by name; they must have done what ours did."""
    variants = parts.objects(f"torch_{kind}")
    for variant in variants:
        for key in ("shape", "threads", "parameters", "trained"):
            if variant[key] != ours[key]:
                raise Crashed(f"torch_{kind}: {variant['variant']} has {key} {variant[key]}, "
                              f"ours {ours[key]}")
    return {variant["variant"]: variant["tokens_per_s"] for variant in variants}


def over_torch(parts, kind, against):
    rate, runs = our_step(parts, kind)
    peers = torch_step(parts, kind, runs[0])
    eager = PEER_DEFAULT.get(kind, kind)
    name = max(peers, key=peers.get) if against == "best" else eager
    each = ", ".join(f"{run['tokens_per_s']:.1f}" for run in runs)
    ours, theirs = (100 * share_of_peak(runs, r) for r in (rate, peers[name]))
    return rate / peers[name], (f"{rate:.1f} (runs {each}) / {peers[name]:.1f} tokens/s ({name}); "
                                f"{ours:.1f}% / {theirs:.1f}% of the FMA peak")


def share_of_peak(runs, rate):
    """What a step at this many tokens/s makes of the best FMA peak beside our runs of its kind. FLOP a
    token are counted alike for both sides: bench_train.c says how."""
    gflop = runs[0]["gflops"] / runs[0]["tokens_per_s"]
    return rate * gflop / max(run["peak_gflops"] for run in runs)


def whole_step(parts, kind, variant):
    """Of the FMA peak, everything but products included: a variant of PyTorch's, or ours for None."""
    rate, runs = our_step(parts, kind)
    if variant:
        rate = torch_step(parts, kind, runs[0])[variant]
    gflop = runs[0]["gflops"] / runs[0]["tokens_per_s"]
    return share_of_peak(runs, rate), f"{rate:.1f} tokens/s x {gflop:.3f} GFLOP"


def variants(parts, kind):
    """The names of PyTorch's variants of a kind that ran, or what stands for those that did not."""
    try:
        return [line["variant"] for line in parts.objects(f"torch_{kind}")]
    except (NotRun, Crashed):
        return [PEER_DEFAULT.get(kind, kind)]


def step_products(parts, kind):
    _, runs = our_step(parts, kind)
    ratios = [run["matmul_ratio"] for run in runs]
    peaks = ", ".join(f"{run['peak_gflops']:.0f}" for run in runs)
    each = ", ".join(f"{100 * ratio:.1f}%" for ratio in ratios)
    return statistics.mean(ratios), f"runs {each} of {peaks} GFLOP/s ({runs[0]['instructions']})"


def lone_products(parts, product, weights):
    rows = []
    for found in MATMUL_LINE.findall(parts.text("matmul")):
        tokens, height, width = map(int, found[2:5])
        gemm = tokens == GEMM_TOKENS and min(height, width) >= GEMM_LEAST_SIDE
        if gemm and found[:2] == (product, weights):
            rows.append((float(found[7]) / float(found[5]), f"{height} x {width}"))
    if not rows:
        raise Crashed(f"no line of {product} {weights} in matmul.log")
    share, shape = min(rows)
    enough = sum(row[0] >= PRODUCTS for row in rows)
    return share, (f"worst of {len(rows)} shapes, {shape}; best {100 * max(rows)[0]:.1f}%; "
                   f"{enough} at {100 * PRODUCTS:.0f}% or more")


def saves(parts):
    """The median of the pairs' ratios."""
    rows = parts.objects("saves")
    ratios = [row["ratio"] for row in rows if "ratio" in row]
    saved = [row for row in rows if row.get("every")]
    return statistics.median(ratios), (
        f"{len(ratios)} pairs; {saved[0]['mib']:.0f} MiB, training stood still "
        f"{max(row['blocked'] for row in saved):.2f} s, written in "
        f"{max(row['written'] for row in saved):.1f} s")


def decode(parts, part, of, ceiling, unit):
    line = parts.objects(part)[0]
    return line[of], f"{line['tok_per_s']:.1f} tokens/s; ceiling {line[ceiling]:.1f} {unit}"


def model_flops(directory):
    """FLOP a token of the layers' matrices, and of the head: two a weight, as bench_decode counts."""
    with open(os.path.join(directory, "config.json")) as file:
        c = json.load(file)
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    q, kv = heads * head_dim, c.get("num_key_value_heads", heads) * head_dim
    layer = 2 * hidden * q + 2 * hidden * kv + 3 * hidden * c["intermediate_size"] + 2 * hidden
    return 2 * (c["num_hidden_layers"] * layer + hidden), 2 * c["vocab_size"] * hidden


def server_peak(parts):
    sides = ("peak_before_server", "peak_after_server")
    return [parts.objects(side)[0]["fma_gflops"] for side in sides]


def server(parts, model):
    rate = parts.number("serve", r"total_tok_s=([\d.]+)")
    out = parts.number("serve", r"^output_tok_s=([\d.]+)")
    peaks, flops = server_peak(parts), sum(model_flops(model))
    return rate * flops / (1e9 * max(peaks)), (
        f"{rate:.1f} tokens/s in and out ({out:.1f} out) x {flops / 1e9:.2f} GFLOP; "
        f"peak before {peaks[0]:.0f}, after {peaks[1]:.0f} GFLOP/s")


def server_needed(parts, model):
    """The same counting only what must be computed: no head for a prompt's tokens but the last,
    and nothing for the last token of an answer."""
    rate = parts.number("serve", r"total_tok_s=([\d.]+)")
    prompt, output = (parts.number("serve", rf" {key}=(\d+)") for key in ("prompt", "output"))
    layers, head = model_flops(model)
    needed = ((prompt + output - 1) * layers + output * head) / (prompt + output)
    return rate * needed / (1e9 * max(server_peak(parts))), "without what is never needed"


def scaling(parts, name):
    """Speedup of two ranks over one, each with a thread."""
    rows = {int(row[0]): row for row in SCALING_LINE.findall(parts.text(name))}
    if sorted(rows) != [1, 2]:
        raise Crashed(f"not a line of one rank and one of two in {name}.log")
    (_, _, _, one, _), (_, threads, layout, two, speedup) = rows[1], rows[2]
    return float(speedup), f"{layout}: {two} / {one} tokens/s, threads a rank: {threads}"


def pipeline(parts):
    """1 where each schedule's bubble is that which its measured costs give; less by the share that
    the worst one is off."""
    rows = PIPELINE_LINE.findall(parts.text("pipeline"))
    if not rows:
        raise Crashed("no line of a schedule in pipeline.log")
    schedule, stages, microbatches, _, measured, simulated, off = max(
        rows, key=lambda row: abs(float(row[-1])))
    return 1 - abs(float(off)) / 100, (
        f"worst of {len(rows)}: {schedule}, {stages} stages, {microbatches} microbatches: "
        f"{measured} where {simulated} is due")


def tokenizer(parts, name):
    best = parts.number(name, r"best=([\d.]+)")
    return parts.number(name, r"encode_mb_per_s=([\d.]+)"), f"median of runs, best {best:.1f}"


# --- the table ------------------------------------------------------------------------------------------


def goals(parts, model):
    """(goal, unit, target, function that measures it[, the most that a share can be])"""
    for kind, name in RUN_NAMES.items():
        yield (f"{name} step over PyTorch at its best of the kind", "x", 1.15,
               lambda kind=kind: over_torch(parts, kind, "best"))
        yield (f"{name} step over PyTorch's eager default", "x", 1.4,
               lambda kind=kind: over_torch(parts, kind, "eager"))
    for kind in ("fp32", "lora"):
        yield (f"products of the {RUN_NAMES[kind]} step, of the FMA peak", "%", PRODUCTS,
               lambda kind=kind: step_products(parts, kind))
    yield ("fp32 steps with a save every 10, of those without", "%", 0.95, lambda: saves(parts))
    yield ("decode, bf16, 1 sequence, of the read bandwidth", "%", 0.85,
           lambda: decode(parts, "decode_1", "read_ratio", "read_gb_per_s", "GB/s"))
    yield ("server, 32 requests of 16 in / 64 out, of the FMA peak", "%", 0.65,
           lambda: server(parts, model), PAIRS)
    for name in ("tp2", "dp2"):
        yield (f"two ranks over one, {name}, a thread each, 160 M", "x", 1.7,
               lambda name=name: scaling(parts, "scaling_" + name))
    yield "pipeline's bubble, of what its schedule gives", "%", 0.9, lambda: pipeline(parts)
    for name in [n for n in parts.ended if n.startswith("tokenizer_")]:
        yield (f"encoding by {name[len('tokenizer_'):]}, MB/s on one core", "", 5.0,
               lambda name=name: tokenizer(parts, name))
    if "tokenizers" in parts.ended:
        yield ("encoding by other models' tokenizers", "", 5.0, lambda: tokenizer(parts, "tokenizers"))


def others(parts, model):
    """Figures worth knowing that are no goals, as rows of the same form. A product alone is held
    against what all of a step's must reach together, for who works on one; it decides nothing."""
    for weights, most in (("f32", 1), ("bf16", PAIRS)):
        for product in ("forward", "grad x", "grad w"):
            yield (f"{product} alone, {weights} weights, T {GEMM_TOKENS}, of the FMA peak", "%",
                   PRODUCTS, lambda p=product, w=weights: lone_products(parts, p, w), most)
    yield ("products of the bf16 step, of the FMA peak", "%", None,
           lambda: step_products(parts, "bf16"))
    for kind, name in RUN_NAMES.items():
        yield (f"whole {name} step, of the FMA peak", "%", None,
               lambda kind=kind: whole_step(parts, kind, None))
        for variant in variants(parts, kind):
            yield (f"PyTorch's {name} step, {variant}, of the FMA peak", "%", None,
                   lambda kind=kind, variant=variant: whole_step(parts, kind, variant))
    yield ("two ranks over one, dp2 with parallel.zero 0, 160 M", "x", None,
           lambda: scaling(parts, "scaling_zero0"))
    yield ("two ranks over one, cp2, one sequence of 2048, 4 layers of the 160 M shape", "x", None,
           lambda: scaling(parts, "scaling_cp2"))
    yield "bf16 step over PyTorch's best in fp32", "x", None, lambda: bf16_over_fp32(parts)
    yield ("decode, 32 sequences, of the FMA peak", "%", None,
           lambda: decode(parts, "decode_32", "fma_ratio", "fma_gflops", "GFLOP/s"))
    yield ("server, needed FLOP alone, of the FMA peak", "%", None,
           lambda: server_needed(parts, model))


def bf16_over_fp32(parts):
    peers = torch_step(parts, "fp32", our_step(parts, "fp32")[1][0])
    name = max(peers, key=peers.get)
    return our_step(parts, "bf16")[0] / peers[name], f"/ {peers[name]:.1f} tokens/s ({name})"


def verdict(measured, unit, target, most):
    if target is None:
        return ""
    if unit == "%" and measured > IMPOSSIBLE * most:
        return "DOUBTED"
    return "met" if measured >= target else "MISSED"


def judge(what, unit, target, measure, most=1):
    row = {"goal": what, "unit": unit, "target": target, "measured": None}
    try:
        row["measured"], row["of"] = measure()
        row["verdict"] = verdict(row["measured"], unit, target, most)
    except (NotRun, Crashed) as reason:
        row["verdict"] = "not run" if isinstance(reason, NotRun) else "CRASHED"
        row["of"] = str(reason)
    except (KeyError, IndexError, AttributeError, OSError, ValueError) as reason:
        row["verdict"], row["of"] = "CRASHED", f"a figure is missing: {reason!r}"
    return row


def doubts(parts):
    """Signs that the machine had other things to do."""
    rates, found = {}, []
    for name in parts.ended:
        if not name.startswith(("train_", "torch_")):
            continue
        try:
            lines = parts.objects(name)
        except (NotRun, Crashed):
            continue
        for line in lines:
            if line.get("cpu_share", 1.0) < BUSY:
                found.append(f"{name} ({line['variant']}) had {100 * line['cpu_share']:.0f}% of "
                             "its cores: is the machine busy?")
        if name.startswith("train_"):
            rates.setdefault(name[:-2], []).append(lines[0]["tokens_per_s"])
    for name, pair in rates.items():
        if max(pair) > DRIFT * min(pair):
            found.append(f"{name}: its two runs are {max(pair) / min(pair):.2f} apart")
    return found


def show(value, unit):
    if value is None:
        return "-"
    return {"%": f"{100 * value:.1f}%", "x": f"{value:.3f}", "": f"{value:.1f}"}[unit]


def print_rows(rows):
    width = max(len(row["goal"]) for row in rows)
    print(f"{'goal':{width}}  measured    target  verdict  of what")
    for row in rows:
        target = "" if row["target"] is None else ">= " + show(row["target"], row["unit"])
        print(f"{row['goal']:{width}}  {show(row['measured'], row['unit']):>8}  {target:>8}  "
              f"{row['verdict']:7}  {row['of']}")


def commit():
    """The commit of the tree, with + when files of it differ."""
    def git(*arguments):
        return subprocess.run(("git",) + arguments, capture_output=True, text=True, check=True).stdout
    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "--short=12", "HEAD").strip() + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def cpu_model():
    with open("/proc/cpuinfo") as file:
        found = re.search(r"^model name\s*: (.*)$", file.read(), re.MULTILINE)
    return found.group(1) if found else "unknown"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--model", required=True, help="the model that was served")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--started", required=True, help="date and time, UTC")
    parser.add_argument("--seconds", type=int, required=True, help="of the whole run")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: figures say nothing")
    options = parser.parse_args()
    parts = Parts(options.folder)
    rows = [judge(*goal) for goal in goals(parts, options.model)]
    also = [judge(*figure) for figure in others(parts, options.model)]
    report = {
        "date": options.started, "commit": commit(), "cpu": cpu_model(),
        "threads": options.threads, "seconds": options.seconds, "quick": options.quick,
        "goals": rows, "also": also, "doubts": [] if options.quick else doubts(parts),
        "parts": {name: {"status": status, "seconds" if status != "left out" else "why": rest}
                  for name, (status, rest) in parts.ended.items()},
    }
    with open(os.path.join(options.folder, "report.json"), "w") as file:
        json.dump(report, file, indent=1)
        file.write("\n")
    print(f"{report['date']}  commit {report['commit']}  {report['cpu']}, {options.threads} threads, "
          f"{options.seconds / 60:.0f} minutes")
    if options.quick:
        print("QUICK: tiny shapes, the figures and verdicts say nothing")
    print_rows(rows)
    print("\nfor information, no goals:")
    print_rows(also)
    for doubt in report["doubts"]:
        print("doubtful:", doubt)
    count = {v: sum(row["verdict"] == v for row in rows)
             for v in ("met", "MISSED", "DOUBTED", "not run", "CRASHED")}
    print("\n" + ", ".join(f"{n} {verdict}" for verdict, n in count.items())
          + f"; {os.path.join(options.folder, 'report.json')}")
    for name in parts.crashed():
        print(f"crashed: {name}, see {os.path.join(options.folder, name + '.log')}", file=sys.stderr)
    return 1 if parts.crashed() or any(r["verdict"] == "CRASHED" for r in rows + also) else 0


if __name__ == "__main__":
    sys.exit(main())
