"""The PromQL engine of benchmarks.forecast: answers made beforehand, in a process of its own."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from forecast_fleet import Fleet

LOG_PATH = "/log"
AGE_SECONDS = 4000
FIRST_QUERY = "sum by (__name__, training_job, instance, basis) (last_over_time"
IDLE_SECONDS = 3.0
"""Without a question for so long, a poll is over, and the answers of the next one are made."""
_ENDING_EVERY = 2


class Engine:
    """Answers the queries of a poll with what was made before it, and remembers them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.began = 0.0
        self.polls = 0
        self._lock = threading.Lock()
        self._asked_seconds = time.monotonic()
        self._prepared = True
        fleet.prepare(time.time())

    def answer(self, path: str) -> bytes:
        """The body for a request; at LOG_PATH when the poll began (monotonic seconds), and its queries so far."""
        with self._lock:
            if path == LOG_PATH:
                return json.dumps({"began": self.began, "queries": len(self.fleet.queries)}).encode()
            self._asked_seconds, self._prepared = time.monotonic(), False
            asked = len(self.fleet.queries)
            body: bytes = self.fleet.answer(path)
            if self.fleet.queries[-1].startswith(FIRST_QUERY) and "/query?" in path:
                self.began, self.polls = self._asked_seconds, self.polls + 1
                del self.fleet.queries[:asked]
            return body

    def prepare(self) -> None:
        """Make the next poll's answers once this one's have been asked for."""
        with self._lock:
            if not self._prepared and time.monotonic() - self._asked_seconds > IDLE_SECONDS:
                self.fleet.ended = self.polls // _ENDING_EVERY
                self.fleet.prepare(time.time())
                self._prepared = True


def serve(port: int, jobs: int, groups: int, *, tells_start: bool) -> None:
    """Answer on the port until the process is ended."""
    engine = Engine(Fleet(jobs, groups, int(time.time()) - AGE_SECONDS, tells_start=tells_start))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = engine.answer(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        time.sleep(0.1)
        engine.prepare()
