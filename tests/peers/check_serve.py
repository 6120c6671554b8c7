#!/usr/bin/env python3
"""`strata serve` through OpenAI's own client, which checks every reply against its types, and its
metrics through Prometheus' parser."""

import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import openai
from prometheus_client.parser import text_string_to_metric_families

from common import ROOT, STRATA, Checks

MESSAGES = [{"role": "user", "content": "What noise does a snake make?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
REFUSED = {
    "tools": {"tools": [TOOL]},
    "tool_choice": {"tool_choice": "required"},
    "functions": {"functions": [{"name": "f"}]},
    "response_format": {"response_format": {"type": "json_object"}},
    "modalities": {"modalities": ["audio"]},
    "temperature": {"temperature": -1},
    "top_logprobs": {"logprobs": True, "top_logprobs": 21},
    "n": {"n": 0},
    "messages": {"messages": [{"role": "user", "content": "long " * 2000}]},
}


@contextmanager
def serving(*arguments):
    command = [str(STRATA), "serve", *arguments, "--port", "0", "--threads", "1"]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            line = process.stdout.readline().split()
            if not line:
                raise RuntimeError("strata serve ended early")
            yield line[-1]
        finally:
            process.terminate()


def check_chat(checks, client):
    def ask(**options):
        options = {"model": "base", "messages": MESSAGES, "max_tokens": 8, "seed": 1} | options
        return client.chat.completions.create(**options)

    whole = ask()
    text = whole.choices[0].message.content
    checks.say(bool(text), "chat", repr(text))
    checks.equal("chat, the same seed", ask().choices[0].message.content, text)
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    joined = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    checks.equal("chat, streamed", joined, text)
    used = chunks[-1].usage.total_tokens
    checks.equal("chat, usage of the stream", used, whole.usage.total_tokens)
    checks.equal("chat, one id a stream", len({c.id for c in chunks}), 1)
    several = ask(n=3)
    checks.equal("chat, n", [c.index for c in several.choices], [0, 1, 2])
    checks.equal("chat, n first", several.choices[0].message.content, text)
    newer = ask(max_completion_tokens=3, max_tokens=openai.NOT_GIVEN)
    checks.equal("chat, max_completion_tokens", newer.usage.completion_tokens, 3)
    word = text.split()[1]
    for stop in (word, ["never said", word]):
        stopped = ask(stop=stop).choices[0]
        kept = (stopped.message.content, stopped.finish_reason)
        checks.equal(f"chat, stop {stop!r}", kept, (text[: text.index(word)], "stop"))
    content = ask(logprobs=True, top_logprobs=2, temperature=0).choices[0].logprobs.content
    good = len(content) == 8 and all(
        t.top_logprobs[0].token == t.token and len(t.top_logprobs) == 2 for t in content
    )
    checks.say(good, "chat, logprobs", f"{len(content)} tokens")
    biased = ask(logit_bias={"72": 100}, logprobs=True).choices[0].logprobs.content
    checks.equal("chat, logit_bias", len({t.token for t in biased}), 1)
    ask(user="me", extra_body={"unknown": 1}, response_format={"type": "text"})
    for field, options in REFUSED.items():
        try:
            ask(**options)
            checks.say(False, f"chat, {field} refused", "it was answered")
        except openai.BadRequestError as error:
            checks.equal(f"chat, {field} refused", error.param, field)


def check_completions(checks, client):
    def ask(**options):
        return client.completions.create(model="base", max_tokens=5, temperature=0, **options)

    text = ask(prompt="Once upon").choices[0].text
    chunks = list(ask(prompt="Once upon", stream=True))
    checks.equal("completion, streamed", "".join(c.choices[0].text for c in chunks), text)
    many = [c.text for c in ask(prompt=["Once upon", "The"], n=2).choices]
    checks.equal("completion, prompts and n", (len(many), many[0]), (4, text))
    scored = ask(prompt="Once upon", echo=True, logprobs=1).choices[0]
    checks.equal("completion, echo", scored.text, "Once upon" + text)
    checks.equal("completion, first logprob", scored.logprobs.token_logprobs[0], None)


def check_routes(checks, client, url):
    checks.equal("models", [m.id for m in client.models.list()], ["base"])
    try:
        client.embeddings.create(model="base", input="x")
        checks.say(False, "an unknown route", "it was answered")
    except openai.NotFoundError as error:
        checks.equal("an unknown route", error.type, "not_found_error")
    with urllib.request.urlopen(url + "/metrics") as reply:
        families = list(text_string_to_metric_families(reply.read().decode()))
    bad = [f.name for f in families if not f.documentation or f.type == "unknown" or not f.samples]
    checks.say(len(families) > 12 and not bad, "metrics", f"{len(families)} families, bad: {bad}")


def main():
    checks = Checks()
    with serving("models/base") as url:
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        checks.attempt("chat", lambda: check_chat(checks, client))
        checks.attempt("completions", lambda: check_completions(checks, client))
        checks.attempt("routes", lambda: check_routes(checks, client, url))
    return checks.finish()


if __name__ == "__main__":
    sys.exit(main())
