#!/usr/bin/env python3
"""`strata chat` at a terminal: commands, Ctrl-C, Ctrl-D, long questions.
Arguments: the strata binary and the program that writes a tiny model."""

import http.server
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

PATIENCE = 60  # seconds; only a failure waits so long


class Terminal:
    """A program at a terminal of its own; what it prints is read with a patience."""

    def __init__(self, arguments):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(arguments[0], arguments)
        self.said = b""

    def type(self, text):
        os.write(self.fd, text)

    def read(self, seconds):
        if not select.select([self.fd], [], [], seconds)[0]:
            return False
        try:
            more = os.read(self.fd, 65536)
        except OSError:  # the other side is closed
            more = b""
        self.said += more
        return bool(more)

    def expect(self, text):
        """Waits for it behind what was expected before; returns what came until then."""
        end = time.monotonic() + PATIENCE
        while text not in self.said:
            if not self.read(end - time.monotonic()):
                raise SystemExit(f"FAILED: {text!r} did not come: {self.said[-2000:]!r}")
        before, _, self.said = self.said.partition(text)
        return before

    def exit_code(self):
        while self.read(PATIENCE):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Endless(http.server.BaseHTTPRequestHandler):
    """Tells how many messages it got, and then goes on until the client leaves."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        text = f"{len(body['messages'])} message(s) on"
        try:
            while True:
                event = {"choices": [{"index": 0, "delta": {"content": text}}]}
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.flush()
                text = " and on"
                time.sleep(0.01)
        except OSError:
            pass

    def log_message(self, *_):
        pass


def check(good, what):
    if not good:
        raise SystemExit(f"FAILED: {what}")


def at_a_terminal(chat):
    terminal = Terminal(chat)
    terminal.expect(b"/help lists")
    terminal.expect(b"> ")
    terminal.type(b"/help\n")
    help_text = terminal.expect(b"\r\n> ")
    for word in (b"/reset", b"/exit", b"/quit", b"Ctrl-C", b"Ctrl-D"):
        check(word in help_text, f"/help does not name {word}")
    terminal.type(b"/hlep\n")
    check(b"there is no /hlep" in terminal.expect(b"\r\n> "), "an unknown command is not told")
    # Ctrl-C at the prompt throws the line away, in an answer it ends the answer.
    terminal.type(b"half a quest")
    terminal.expect(b"half a quest")
    terminal.type(b"\x03")
    terminal.expect(b"\r\n> ")
    terminal.type(b"Hello\n")
    terminal.expect(b"1 message(s) on and on and")
    terminal.type(b"\x03")
    terminal.expect(b"\n> ")
    terminal.type(b"And then?\n")  # the cut answer is remembered
    terminal.expect(b"3 message(s) on and on and")
    terminal.type(b"\x03")
    terminal.expect(b"\n> ")
    terminal.type(b"/reset\n")
    terminal.expect(b"\n> ")
    terminal.type(b"Hello\n")
    terminal.expect(b"1 message(s) on and on and")
    terminal.type(b"\x03")
    terminal.expect(b"\n> ")
    terminal.type(b"\x04")
    check(terminal.exit_code() == 1, "the unknown command must show in the exit code")


class Several(http.server.BaseHTTPRequestHandler):
    """A server of two models, whose answer is the name that it was asked for."""

    def reply(self, text):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_GET(self):
        check(self.path == "/v1/models", f"GET {self.path}")
        self.reply(json.dumps({"object": "list", "data": [{"id": "base"}, {"id": "facts"}]}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        event = {"choices": [{"index": 0, "delta": {"content": f"I am {body['model']}."}}]}
        self.reply(f"data: {json.dumps(event)}\n\n")

    def log_message(self, *_):
        pass


def serve_in_background(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


def several_models(strata, model):
    """Which one answers is said, and --model chooses; /quit and /exit end it before the rest."""

    def ask(*arguments, text="Who?\n/quit\nWho?\n"):
        return subprocess.run(
            [strata, "chat", *arguments], input=text, capture_output=True, text=True, check=False
        )

    url = f"http://127.0.0.1:{serve_in_background(Several)}"
    for arguments, name in (([], "base"), (["--model", "facts"], "facts")):
        said = ask("--url", url, *arguments)
        check(said.stdout == f"I am {name}.\n" and said.returncode == 0, f"the answer: {said}")
        check(f"talking to {name}, of base, facts; --model NAME" in said.stderr, f"{said}")
    check(ask("--url", url, text="/exit\nWho?\n").stdout == "", "/exit does not end it")
    said = ask("--url", url, "--model", "none")
    check(said.returncode == 1 and "no model 'none' among" in said.stderr, f"{said}")
    said = ask(model, "--threads", "1", "--max-tokens", "2")  # the only one goes without saying
    check("talking to" not in said.stderr and said.returncode == 0, f"{said}")
    said = ask("--url", "http://127.0.0.1:1")
    check(said.returncode == 1 and "127.0.0.1:1" in said.stderr and not said.stdout, f"{said}")


def long_questions(chat):
    """8,000 characters in three lines are one question; without a terminal, in one line."""
    parts = ["a" * 2500, "b" * 2500, "c" * 2500]
    said = [
        subprocess.run(
            chat + ["--max-tokens", "4"], input=text, capture_output=True, text=True, check=True
        ).stdout
        for text in ("\\\n".join(parts) + "\n", " \n")
    ]
    check(said[0] and said[0] != said[1], "a long question got no answer of its own")
    too_long = subprocess.run(
        chat, input="x" * 9000 + "\n", capture_output=True, text=True, check=False
    )
    check("8192" in too_long.stderr, f"a question beyond the context: {too_long.stderr}")
    check(too_long.returncode == 1, "a question beyond the context must show in the exit code")


def main():
    strata, write_model = sys.argv[1:]
    folder = tempfile.mkdtemp()
    try:
        model = os.path.join(folder, "model")
        subprocess.run([write_model, model], check=True)
        signal.alarm(4 * PATIENCE)
        chat = [strata, "chat", model, "--threads", "1", "--temperature", "0"]
        at_a_terminal([strata, "chat", "--url", f"http://127.0.0.1:{serve_in_background(Endless)}"])
        several_models(strata, model)
        long_questions(chat)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
