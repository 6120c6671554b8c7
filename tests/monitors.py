"""monitors.py RUN RANKS STEPS: metrics.jsonl, metrics.prom and the event files of a run that was
interrupted once tell the same. The parsers here follow the formats' documents, not our writers:
TFRecord and CRC-32C (RFC 3720), protobuf's encoding, Prometheus' text format 0.0.4."""

import glob
import json
import math
import re
import struct
import sys


def crc32c(data):
    table = []
    for i in range(256):
        for _ in range(8):
            i = (i >> 1) ^ 0x82F63B78 if i & 1 else i >> 1
        table.append(i)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ table[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def masked(data):
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def records(path):
    data = open(path, "rb").read()
    at = 0
    while at < len(data):
        head = data[at : at + 8]
        (length,) = struct.unpack("<Q", head)
        (crc,) = struct.unpack_from("<I", data, at + 8)
        assert crc == masked(head), f"{path}: the length's sum at {at}"
        body = data[at + 12 : at + 12 + length]
        assert len(body) == length, f"{path}: cut short"
        (crc,) = struct.unpack_from("<I", data, at + 12 + length)
        assert crc == masked(body), f"{path}: the data's sum at {at}"
        yield body
        at += 16 + length


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = varint(data, at)
        elif wire == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        elif wire == 5:
            value, at = struct.unpack_from("<f", data, at)[0], at + 4
        else:
            assert wire == 2, wire
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
            assert len(value) == length
        yield key >> 3, value


def read_events(path):
    """{tag: {step: value}} and the step from which earlier files no longer count."""
    found, start = {}, None
    for index, body in enumerate(records(path)):
        event = dict(fields(body))
        assert abs(event[1] - 1.7e9) < 1e9, "the wall time"
        assert (index == 0) == (event.get(3) == b"brain.Event:2"), "the version comes first, once"
        if 7 in event:
            assert dict(fields(event[7])) == {1: 1}
            start = event[2]
        for number, value in fields(event.get(5, b"")):
            assert number == 1
            scalar = dict(fields(value))
            found.setdefault(scalar[1].decode(), {})[event[2]] = scalar[2]
    return found, start


def read_all_events(folder):
    merged, files = {}, sorted(glob.glob(glob.escape(folder) + "/events.out.tfevents.*"))
    for path in files:
        found, start = read_events(path)
        for tag in merged:
            merged[tag] = {step: v for step, v in merged[tag].items() if step < start}
        for tag, values in found.items():
            merged.setdefault(tag, {}).update(values)
    return merged, len(files)


def read_prometheus(path):
    sample = re.compile(r'^(\w+)\{((?:\w+="(?:[^"\\]|\\.)*",?)*)\} (\S+)$')
    help_of, type_of, values, labels = {}, {}, {}, set()
    for line in open(path, encoding="utf-8").read().splitlines():
        if line.startswith("# HELP "):
            _, _, name, text = line.split(" ", 3)
            help_of[name] = text
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert kind in ("gauge", "counter") and (kind == "counter") == name.endswith("_total")
            type_of[name] = kind
        else:
            name, label, value = sample.match(line).groups()
            assert name in help_of and name in type_of and name not in values, line
            values[name] = float(value)
            labels.add(label)
    assert len(labels) == 1
    pairs = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', labels.pop()))
    return values, {k: re.sub(r"\\(.)", r"\1", v) for k, v in pairs.items()}


def near(a, b):
    return math.isclose(a, b, rel_tol=1e-5)


run, ranks, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
lines = [json.loads(line) for line in open(run + "/metrics.jsonl")]
train = {line["step"]: line for line in lines if line["kind"] == "train"}
held = {line["step"]: line for line in lines if line["kind"] == "validation"}
events, files = read_all_events(run + "/tensorboard")
assert files == 2, f"{files} event files: one a start"
for tag, field in {
    "train/loss": "loss",
    "train/gradient_norm": "grad_norm",
    "train/learning_rate": "lr",
    "speed/tokens_per_second": "tokens_per_second",
    "speed/mfu": "mfu",
}.items():
    assert events[tag].keys() == train.keys(), (tag, sorted(events[tag]), sorted(train))
    assert all(near(events[tag][s], train[s][field]) for s in train), tag
for tag, field in {"validation/loss": "loss", "validation/perplexity": "perplexity"}.items():
    assert events[tag].keys() == held.keys(), (tag, sorted(events[tag]), sorted(held))
    assert all(near(events[tag][s], held[s][field]) for s in held), tag
assert all(v > 1e6 for v in events["memory/resident_peak_bytes"].values())

values, labels = read_prometheus(run + "/metrics.prom")
assert labels == {"run": run, "ranks": str(ranks)}, labels
last = train[max(train)]
assert max(train) == steps and values["strata_train_step"] == steps
for name, want in {
    "strata_train_steps": steps,
    "strata_train_tokens_total": last["tokens"],
    "strata_train_loss": last["loss"],
    "strata_train_gradient_norm": last["grad_norm"],
    "strata_train_learning_rate": last["lr"],
    "strata_train_tokens_per_second": last["tokens_per_second"],
    "strata_train_flops_per_second": last["gflops"] * 1e9,
    "strata_train_mfu_ratio": last["mfu"],
    "strata_train_validation_loss": held[max(held)]["loss"],
    "strata_train_validation_perplexity": held[max(held)]["perplexity"],
}.items():
    assert near(values[name], want), (name, values[name], want)
print(f"{len(lines)} lines, {len(events)} tags in {files} event files, {len(values)} samples agree")
