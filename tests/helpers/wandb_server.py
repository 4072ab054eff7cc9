"""A server that answers as much of W&B as one run asks for, or fails as told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = {"id": "e", "name": "someone"}
PROJECT = {"id": "p", "name": "CrossPoint", "entity": ENTITY}
RESUMED = {  # a run whose last step is 2
    "summaryMetrics": "{}",
    "logLineCount": 0,
    "historyLineCount": 3,
    "eventsLineCount": 0,
    "historyTail": json.dumps(['{"_step": 2, "_runtime": 1}']),
    "eventsTail": "[]",
    "config": "{}",
    "wandbConfig": '{"t": 1}',
}


class WandbServer(ThreadingHTTPServer):
    """Listens on a port of its own while the ``with`` block lasts.

    Attributes:
        url: for ``--wb_url``.
        mood: "well", "500" (of every request) or "hangs" (no answer for 20 s).
        bodies: of the requests that were answered well, as (path, parsed JSON).
        logins: what W&B's requests had as their ``Authorization``.
        known: whether runs exist here that a resuming run asks for.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mood, self.known = "well", False
        self.bodies: list[tuple[str, Any]] = []
        self.logins: set[str] = set()
        self.closing = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    @property
    def runs(self) -> list[str]:
        """Ids of the runs that were opened here, in order."""
        queries = [body for path, body in self.bodies if path == "/graphql"]
        names = [x["variables"]["name"] for x in queries if "UpsertB" in x["query"]]
        return list(dict.fromkeys(names))

    def history(self, whole: bool = False) -> list[dict[str, Any]]:
        """The rows of values that were uploaded; ``whole``: with W&B's own in them."""
        rows = []
        for path, body in self.bodies:
            if path.endswith("file_stream"):
                part = body.get("files", {}).get("wandb-history.jsonl", {})
                rows += map(json.loads, part.get("content", []))
        return [{k: v for k, v in r.items() if whole or k[0] != "_"} for r in rows]

    def reply(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data that answer a GraphQL query."""
        bucket = {"id": "b", "name": variables.get("name"), "displayName": "run"}
        bucket |= {"project": PROJECT}
        resumed = bucket | RESUMED if self.known else None
        answers: dict[str, dict[str, Any]] = {
            "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
            "RunResumeStatus": {"model": PROJECT | {"bucket": resumed}},
            "CreateRunFiles": {
                "createRunFiles": {"runID": "b", "uploadHeaders": [], "files": []}
            },
            "ServerFeatures": {"serverInfo": {"features": []}},
        }
        return next((data for name, data in answers.items() if name in query), {})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server = self.server
        if server.mood == "hangs":
            server.closing.wait(20)  # a client that waits for ever is answered late
        elif server.mood.isdigit():
            self.answer(int(server.mood), {"error": "broken"})
        else:
            body = json.loads(content) if content[:1] == b"{" else {}
            if "Authorization" in self.headers:
                server.logins.add(self.headers["Authorization"])
            server.bodies.append((self.path, body))
            query = body.get("query")
            data = server.reply(query, body.get("variables") or {}) if query else None
            self.answer(200, {"data": data} if query else {})

    do_GET = do_PUT = do_POST

    def answer(self, code: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
