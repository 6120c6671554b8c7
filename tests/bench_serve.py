#!/usr/bin/env python3
"""Load on a running server: N concurrent streams of P prompt tokens and O output tokens each.

    build/strata serve MODEL --port 8000 &
    tests/bench_serve.py --url http://127.0.0.1:8000 --concurrency 32 --prompt 16 --output 64

Prints output tokens, and prompt and output tokens, per second over the whole run (medians), and percentiles of the time to the first token
and between tokens, as a client sees them. Prompts differ from each other, so no prefix is reused.
"""
import argparse
import http.client
import json
import random
import threading
import time
import urllib.parse


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


def stream(address, body, result):
    """One request; result gets the arrival times of its chunks and its usage."""
    connection = http.client.HTTPConnection(address, timeout=3600)
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    reply = connection.getresponse()
    if reply.status != 200:
        result["error"] = reply.read().decode()
        return
    times = []
    for line in reply:
        if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            result["usage"] = event["usage"]
        if event["choices"] and event["choices"][0]["text"]:
            times.append(time.perf_counter())
    result["first"] = times[0] - start if times else None
    result["gaps"] = [b - a for a, b in zip(times, times[1:])]


def run(address, options, seed):
    draw = random.Random(seed)
    results = [{} for _ in range(options.concurrency)]
    threads = []
    for result in results:
        body = json.dumps({
            "prompt": [draw.randrange(options.low_id, options.high_id) for _ in range(options.prompt)],
            "max_tokens": options.output, "ignore_eos": True, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True},
        })
        threads.append(threading.Thread(target=stream, args=(address, body, result)))
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start, results


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=16, help="tokens a prompt")
    parser.add_argument("--output", type=int, default=64, help="tokens an answer")
    parser.add_argument("--repeat", type=int, default=1, help="runs; the median is reported")
    parser.add_argument("--low-id", type=int, default=5, help="prompt token ids are drawn from here")
    parser.add_argument("--high-id", type=int, default=250, help="to below this")
    options = parser.parse_args()
    address = urllib.parse.urlsplit(options.url).netloc
    rates, totals, first, gaps, errors = [], [], [], [], []
    for seed in range(options.repeat):
        seconds, results = run(address, options, seed)
        usages = [r.get("usage", {}) for r in results]
        tokens = sum(usage.get("completion_tokens", 0) for usage in usages)
        prompts = sum(usage.get("prompt_tokens", 0) for usage in usages)
        rates.append(tokens / seconds)
        totals.append((prompts + tokens) / seconds)
        print(f"run {seed + 1} of {options.repeat}: {seconds:.1f} s, {prompts} prompt and {tokens} "
              "output tokens", flush=True)
        first += [r["first"] for r in results if r.get("first")]
        gaps += [gap for r in results for gap in r.get("gaps", [])]
        errors += [r["error"] for r in results if "error" in r]
    print(f"concurrency={options.concurrency} prompt={options.prompt} output={options.output} "
          f"repeat={options.repeat} errors={len(errors)}")
    print(f"output_tok_s={percentile(rates, 0.5):.1f} total_tok_s={percentile(totals, 0.5):.1f}")
    for name, values in (("ttft", first), ("inter_token", gaps)):
        print(" ".join(f"{name}_p{int(100 * share)}_ms={1e3 * percentile(values, share):.1f}"
                       for share in (0.5, 0.9, 0.99)))
    for error in errors[:3]:
        print("error:", error)
    return 1 if errors else 0


if __name__ == "__main__":
    raise SystemExit(main())
