"""A server on loopback that speaks OpenAI's chat protocol, with the faults of real servers on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}


class LanguageServer:
    """What it answers, and what it was asked.

    `answer` makes the text of a reply from the body of a request. `faults` are used up before it, one for each request:
    None, a status, a status with the seconds of its header retry-after, "hang", "break", "html", "no json",
    "no choices", "empty" or "cut".
    """

    def __init__(self) -> None:
        self.answer: Callable[[dict[str, Any]], str] = lambda body: "A tidy room."
        self.faults: deque[Any] = deque()
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0  # that an answer takes
        self.url = ""
        self.lock = threading.Lock()

    def prompts(self) -> list[str]:
        """The texts of the users."""
        return [text_of(body) for body in self.asked]


def text_of(body: dict[str, Any]) -> str:
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: LanguageServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        state = self.state
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with state.lock:
            state.asked.append(body)
            state.keys.append(self.headers["Authorization"])
            state.at_once += 1
            state.most_at_once = max(state.most_at_once, state.at_once)
            fault = state.faults.popleft() if state.faults else None
        time.sleep(state.seconds)
        try:
            self.reply(body, fault)
        finally:
            with state.lock:
                state.at_once -= 1

    def reply(self, body: dict[str, Any], fault: Any) -> None:
        status, pause = fault if isinstance(fault, tuple) else (fault, None)
        if isinstance(status, int):
            said = {"error": {"message": f"status {status} for {self.headers['Authorization']}"}}
            self.send(status, json.dumps(said), {} if pause is None else {"retry-after": str(pause)})
            return
        if fault == "hang":
            time.sleep(1.0)
        if fault == "break":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"choices": [')
            self.close_connection = True
            return
        if fault == "html":
            self.send(200, "<html><body>Please log in</body></html>", {"Content-Type": "text/html"})
            return
        if fault == "no json":
            self.send(200, '{"choices": [{"mess', {})
            return
        text = "" if fault == "empty" else self.state.answer(body)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "length" if fault == "cut" else "stop"}
        found = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"], "usage": USAGE}
        self.send(200, json.dumps({**found, "choices": [] if fault == "no choices" else [choice]}), {})

    def send(self, status: int, text: str, headers: dict[str, str]) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve() -> Iterator[LanguageServer]:
    state = LanguageServer()
    handler = type("Handler", (Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
