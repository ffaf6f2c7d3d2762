"""An API server and a kubelet to test against: real HTTP with a chunked watch, real gRPC over a unix socket.

Both speak from the protocols' own descriptions; nothing here uses the code under test.
"""

import contextlib
import json
import ssl
import threading
import time
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import grpc

NODE = "node-1"


def wait_until(condition, seconds=8.0):
    """Wait for what another thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def uid_of(number):
    return f"{number:08x}-1111-4222-8333-444455556666"


def pod(
    number, name=None, *, namespace="lab", labels=None, annotations=None, env=None, phase="Running", states=(), **spec
):
    """A pod as the API server tells it; `states` are those of its containers."""
    container = {"name": "main", "env": env or [], "resources": spec.pop("resources", {})}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "uid": uid_of(number),
            "name": name or f"pod-{number}",
            "namespace": namespace,
            "labels": labels or {},
            "annotations": annotations or {},
            "managedFields": [{"manager": "kubelet", "fieldsV1": {"f:status": {}}}],
        },
        "spec": {"nodeName": NODE, "containers": [container], **spec},
        "status": {
            "phase": phase,
            "startTime": "2026-11-21T08:00:00Z",
            "containerStatuses": [{"name": "main", "state": state} for state in states],
        },
    }


class ApiServer:
    """Lists and watches pods.

    Attributes:
        requests: (path, parameters, headers) of all there were.
        refuse: an HTTP status to answer everything with; 0 for none.
        answer: bytes to answer every list with; None for the truth.
        slices: version -> the answer of its resourceslices; others are 404.
        page: the most pods in one answer.
        nodes: name -> node; others are 404.
    """

    def __init__(self, tls=None):
        self.requests = []
        self.refuse = 0
        self.answer = None
        self.slices = {}
        self.nodes = {}
        self.page = 1000
        self.oldest = 0
        self.version = 100
        self._pods = {}
        self._events = []
        self._generation = 0
        self._changed = threading.Condition()
        self._tls = tls
        self._port = 0
        self.watching = 0
        self._server = None
        self.back()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def back(self):
        """Listen, on the port it had before."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                with contextlib.suppress(OSError):
                    owner._serve(self)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *args: None
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def away(self):
        """Break every connection and take no new one."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.drop_watches()

    def drop_watches(self):
        """Break the connection of every watch, in the middle of its chunked answer."""
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
        wait_until(lambda: self.watching == 0)

    def put(self, *pods):
        for found in pods:
            with self._changed:
                kind = "MODIFIED" if found["metadata"]["uid"] in self._pods else "ADDED"
                self._pods[found["metadata"]["uid"]] = found
                self._note(kind, found)

    def delete(self, number):
        with self._changed:
            self._note("DELETED", self._pods.pop(uid_of(number)))

    def bookmark(self):
        with self._changed:
            self._note("BOOKMARK", {"kind": "Pod", "metadata": {}})

    def forget(self):
        """Keep no event and end all watches: whoever goes on from before now gets 410."""
        with self._changed:
            self.version += 1
            self._events.clear()
            self.oldest = self.version
        self.drop_watches()

    def send(self, line):
        """Any bytes to every watch."""
        with self._changed:
            self._events.append((self.version, line))
            self._changed.notify_all()

    def _note(self, kind, found):
        self.version += 1
        found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
        self._events.append((self.version, line))
        self._changed.notify_all()

    def _serve(self, handler):
        parts = urlsplit(handler.path)
        parameters = dict(parse_qsl(parts.query))
        self.requests.append((parts.path, parameters, dict(handler.headers)))
        if self.refuse:
            self._reply(handler, b'{"kind": "Status"}', self.refuse)
        elif parts.path.startswith("/apis/resource.k8s.io/"):
            answer = self.slices.get(parts.path.split("/")[3])
            self._reply(handler, json.dumps(answer).encode(), 404 if answer is None else 200)
        elif parts.path.startswith("/api/v1/nodes/"):
            answer = self.nodes.get(parts.path.rpartition("/")[2])
            self._reply(handler, json.dumps(answer).encode(), 404 if answer is None else 200)
        elif parameters.get("fieldSelector") != f"spec.nodeName={NODE}":
            self._reply(handler, b"{}", 400)
        elif parameters.get("watch"):
            self._watch(handler, parameters)
        else:
            self._list(handler, parameters)

    def _list(self, handler, parameters):
        if self.answer is not None:
            self._reply(handler, self.answer)
            return
        assert not ("continue" in parameters and "resourceVersion" in parameters)
        with self._changed:
            pods, begin = list(self._pods.values()), int(parameters.get("continue", "0"))
            end = begin + min(self.page, int(parameters["limit"]))
            metadata = {"resourceVersion": str(self.version)}
            if end < len(pods):
                metadata["continue"] = str(end)
        body = {"kind": "PodList", "metadata": metadata, "items": pods[begin:end]}
        self._reply(handler, json.dumps(body).encode())

    @staticmethod
    def _reply(handler, body, status=200):
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        if status == 307:
            handler.send_header("Location", "/elsewhere")
        handler.end_headers()
        handler.wfile.write(body)

    def _watch(self, handler, parameters):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.flush()
        sent, begin = int(parameters["resourceVersion"]), self._generation
        if sent < self.oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired"}
            self._chunk(handler, json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            self._chunk(handler, b"")
            return
        self.watching += 1
        try:
            position = next((i for i, (v, _) in enumerate(self._events) if v > sent), len(self._events))
            while True:
                with self._changed:
                    while len(self._events) <= position and self._generation == begin:
                        self._changed.wait(5)
                        position = min(position, len(self._events))
                    if self._generation != begin:
                        handler.close_connection = True
                        return
                    lines = b"".join(line for _, line in self._events[position:])
                    position = len(self._events)
                # As a real server may: pieces that do not end with a line.
                middle = len(lines) // 2
                self._chunk(handler, lines[:middle])
                self._chunk(handler, lines[middle:])
        finally:
            self.watching -= 1

    @staticmethod
    def _chunk(handler, data):
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        handler.wfile.flush()

    def close(self):
        self.away()


def text(number, value):
    """A field of a protocol buffer with text or a message in it."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def claim(device, *, driver="gpu.nvidia.com", pool=NODE, cdi=()):
    """ClaimResource."""
    names = b"".join(text(1, text(1, name)) for name in cdi)
    return names + text(2, driver) + text(3, pool) + text(4, device)


def pod_resources(name, devices=(), claims=(), *, namespace="lab"):
    """PodResources with one container; devices are (resource name, ids)."""
    container = text(1, "main")
    for resource, ids in devices:
        # A topology (3) with a NUMA node, which nobody asks for.
        container += text(2, text(1, resource) + b"".join(text(2, i) for i in ids) + text(3, text(1, b"\x08\x01")))
    container += text(3, "")
    if claims:
        container += text(5, text(2, "claim") + text(3, namespace) + b"".join(text(4, c) for c in claims))
    return text(1, text(1, name) + text(2, namespace) + text(3, container))


class Kubelet(grpc.GenericRpcHandler):
    """Answers PodResources v1 List with `reply`, after `delay_seconds`; `known` is False for an old one."""

    def __init__(self, path):
        self.path = path
        self.reply = b""
        self.delay_seconds = 0.0
        self.known = True
        self.calls = 0
        self._server = None
        self.start()

    def start(self):
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix://{self.path}")
        self._server.start()

    def service(self, details):
        if details.method == "/v1.PodResourcesLister/List" and self.known:
            return grpc.unary_unary_rpc_method_handler(self._answer)
        return None

    def _answer(self, request, context):
        self.calls += 1
        time.sleep(self.delay_seconds)
        return self.reply

    def stop(self):
        self._server.stop(0).wait()
