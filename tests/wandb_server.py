"""A server that answers as much of W&B as one run asks for, or fails as told."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class WandbServer:
    """Listens on a port of its own while the ``with`` block lasts.

    Attributes:
        url: for ``--wb_url``.
        mood: "well", "500" (of every request) or "hangs" (no answer for 20 s).
        bodies: of the requests that were answered well, as (path, parsed JSON).
        runs: ids of the runs that were opened here, in order.
        logins: what W&B's requests had as their ``Authorization``.
        known: whether runs exist here that a resuming run asks for.
    """

    def __init__(self, mood: str = "well") -> None:
        self.mood, self.known = mood, False
        self.bodies: list[tuple[str, Any]] = []
        self.logins: set[str] = set()
        self._closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._answer(self)

            do_GET = do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def runs(self) -> list[str]:
        queries = [body for path, body in self.bodies if path == "/graphql"]
        names = [x["variables"]["name"] for x in queries if "UpsertB" in x["query"]]
        return list(dict.fromkeys(names))

    def history(self, whole: bool = False) -> list[dict[str, Any]]:
        """The rows of values that were uploaded; ``whole``: with W&B's own in them."""
        files = [
            body.get("files", {})
            for path, body in self.bodies
            if path.endswith("/file_stream")
        ]
        lines = [
            line
            for file in files
            for line in file.get("wandb-history.jsonl", {}).get("content", ())
        ]
        rows = map(json.loads, lines)
        return [{k: v for k, v in r.items() if whole or k[0] != "_"} for r in rows]

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        size = int(request.headers.get("Content-Length", 0))
        content = request.rfile.read(size)
        if self.mood == "hangs":
            self._closing.wait(20)  # a client that waits for ever gets its answer late
            return
        if self.mood.isdigit():
            self._send(request, int(self.mood), {"error": "broken"})
            return
        body = json.loads(content) if content[:1] == b"{" else {}
        if "Authorization" in request.headers:
            self.logins.add(request.headers["Authorization"])
        self.bodies.append((request.path, body))
        self._send(request, 200, self._reply(body))

    def _reply(self, body: dict[str, Any]) -> dict[str, Any]:
        query, values = body.get("query", ""), body.get("variables") or {}
        entity = {"id": "e", "name": "someone"}
        bucket = {
            "id": "b",
            "name": values.get("name"),
            "displayName": "run",
            "project": {"id": "p", "name": "CrossPoint", "entity": entity},
        }
        if "UpsertBucket" in query:
            return {"data": {"upsertBucket": {"bucket": bucket, "inserted": True}}}
        if "RunResumeStatus" in query:
            found = bucket | {
                "summaryMetrics": "{}",
                "logLineCount": 0,
                "historyLineCount": 3,
                "eventsLineCount": 0,
                "historyTail": json.dumps(['{"_step": 2, "_runtime": 1}']),
                "eventsTail": "[]",
                "config": "{}",
                "wandbConfig": '{"t": 1}',
            }
            model = {"id": "p", "name": "CrossPoint", "entity": entity}
            return {
                "data": {"model": model | {"bucket": (self.known and found) or None}}
            }
        if "CreateRunFiles" in query:
            created = {"runID": "b", "uploadHeaders": [], "files": []}
            return {"data": {"createRunFiles": created}}
        if "ServerFeatures" in query:
            return {"data": {"serverInfo": {"features": []}}}
        return {"data": {}} if query else {}

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, code: int, body: dict) -> None:
        content = json.dumps(body).encode()
        request.send_response(code)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        request.wfile.write(content)
