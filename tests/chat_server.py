"""A small real HTTP server that speaks /v1/chat/completions: deterministic answers, and failures on demand."""

import contextlib
import hashlib
import json
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one request.

    kind: ``status`` (a reply of that status: an error, or `body`), ``garbled_body`` (a reply that is not JSON),
    ``content`` (a well-formed reply whose answer is `text`), ``drop`` (the connection closes without a reply),
    ``hang`` (no reply for `seconds`).
    """

    kind: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    text: str = ""
    finish_reason: str = "stop"
    seconds: float = 5.0
    body: str | None = None


def expected_summary(message: str) -> str:
    """Return the text with which the server answers a user message."""
    return f"People drawn to {hashlib.sha256(message.encode()).hexdigest()[:12]}."


class ChatServer:
    """The server; a context manager that listens on a free port of 127.0.0.1.

    Attributes:
        requests: Headers and body of every request, in order of arrival.
        faults: What happens to the next requests, one entry each; None is a request that goes well.
        delay_s: Seconds that every answer takes.
        most_at_once: The largest number of requests that were under way together.
        refused: Field of a request -> the words with which it is refused, in status 400.
        answers_as: Model and fingerprint that the next replies name; else the model that was asked for.
    """

    def __init__(self, faults: list[Fault | None] | None = None, delay_s: float = 0.0):
        self.requests: list[dict] = []
        self.faults = deque(faults or [])
        self.delay_s = delay_s
        self.most_at_once = 0
        self.refused: dict[str, str] = {}
        self.answers_as: list[tuple[str | None, str | None]] = []
        self._under_way = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self) -> "ChatServer":
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    def asked(self) -> Counter[str]:
        """Return how often each user message was asked."""
        with self._lock:
            return Counter(request["body"]["messages"][1]["content"] for request in self.requests)

    def _begin(self, request: dict) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            self._under_way += 1
            self.most_at_once = max(self.most_at_once, self._under_way)
            return self.faults.popleft() if self.faults else None

    def _name(self) -> tuple[str | None, ...]:
        with self._lock:
            return self.answers_as.pop(0) if self.answers_as else ()

    def _end(self) -> None:
        with self._lock:
            self._under_way -= 1

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fault = server._begin({"headers": self.headers, "path": self.path, "body": body})
                try:
                    self._reply(body, fault)
                finally:
                    server._end()

            def _reply(self, body, fault):
                time.sleep(server.delay_s)
                if self.path != "/v1/chat/completions":
                    self._send(404, json.dumps({"error": {"message": f"no route {self.path}"}}))
                elif said := [words for name, words in server.refused.items() if name in body]:
                    self._send(400, json.dumps({"error": {"message": said[0]}}))
                elif fault is None:
                    self._send(200, completion(body, answer(body), "stop", *server._name()))
                elif fault.kind == "status":
                    echoed = self.headers.get("Authorization", "")
                    error = {"error": {"message": f"{fault.text or 'refused'} (you sent {echoed})"}}
                    text = json.dumps(error) if fault.body is None else fault.body
                    self._send(fault.status, text, fault.headers)
                elif fault.kind == "garbled_body":
                    self._send(200, '{"choices": [{"mess')
                elif fault.kind == "content":
                    self._send(200, completion(body, fault.text, fault.finish_reason))
                elif fault.kind == "drop":
                    self.close_connection = True
                elif fault.kind == "hang":
                    server._closing.wait(fault.seconds)
                    self.close_connection = True
                else:
                    raise AssertionError(f"unknown fault {fault.kind!r}")

            def _send(self, status, text, headers=None):
                data = text.encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                with contextlib.suppress(ConnectionError):  # the client may have been killed meanwhile
                    self.end_headers()
                    self.wfile.write(data)

            def log_message(self, *arguments):
                """Keep the tests' output quiet."""

        return Handler


def answer(body: dict) -> str:
    """Return the content for a request: a string or a JSON object, as its system message asks."""
    system, message = (turn["content"] for turn in body["messages"][:2])
    summary = expected_summary(message)
    return summary if "STRING" in system else json.dumps({"summarization": summary})


def completion(body: dict, content: str, finish_reason: str, model: str | None = "", fingerprint=None) -> str:
    """Return the body of a successful reply; a model that is "" is the one asked for."""
    named = {"model": body["model"] if model == "" else model, "system_fingerprint": fingerprint}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": finish_reason,
    }
    return json.dumps({"id": "c", "object": "chat.completion", "choices": [choice], **named})
