"""Keeps this node's pods up to date: lists them once, then watches what changes, in a thread of its own.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import orjson

from carbon_exporter.jobs.kubernetes.api import Api, ApiError, GoneError, Stream
from carbon_exporter.jobs.kubernetes.pod import Pod, parse_pod

_PATH: Final = "/api/v1/pods"
_PAGE: Final = "100"
_MOST_PAGES: Final = 1000
_EVENTS: Final = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK", "ERROR")
_GONE: Final = "410"
_WATCH_SECONDS: Final = 120
"""The server ends a watch after this; a connection that has died unnoticed is given up soon after."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    """The pods of this node at one instant, by UID.

    `complete` is False until the API server has told them all, `left_out` counts those beyond the bound.
    """

    pods: Mapping[str, Pod] = field(default_factory=lambda: MappingProxyType({}))
    complete: bool = False
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait after the n-th failure in a row: twice as long each time, scattered down to the half."""

    first_seconds: float
    longest_seconds: float
    random: Callable[[], float]

    def seconds(self, failures: int) -> float:
        """For n = 0, 1, 2..."""
        whole = min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures, 30))
        return whole * (1 + self.random()) / 2


class PodWatch:
    """The pods of one node.

    Args:
        api: the server.
        node: the node's name.
        wanted: labels and annotations to keep of each pod.
        most_pods: pods beyond this are left out, and said.
        backoff: between attempts.
        changed: is called when devices may have been given to a pod.

    Attributes:
        known: what is known now; replaced whole, never changed.
        failure: why it may be out of date, one line; "" while the server answers.
    """

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        wanted: Collection[str],
        most_pods: int,
        backoff: Backoff,
        changed: Callable[[], None],
    ) -> None:
        self.known = Known()
        self.failure = ""
        self._api = api
        self._node = node
        self._wanted = frozenset(wanted)
        self._most_pods = most_pods
        self._backoff = backoff
        self._changed = changed
        self._version: str | None = None
        self._list_at = {"resourceVersion": "0"}  # what the server has at hand: cheap when a thousand nodes start
        self._failures = 0
        self._stream: Stream | None = None
        self._spoilt = False
        self._warned_empty = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="kubernetes pods", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._stream is not None:
            self._stream.cut()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause = 0
            try:
                self._follow()
                self._settle()
            except GoneError:
                self._version = None
                pause = self._note_failure("")
            except ApiError as error:
                pause = self._note_failure(str(error))
            except Exception as error:  # noqa: BLE001 - a bug here must not end the watch for good
                self._version = None
                pause = self._note_failure(f"watching pods: {type(error).__name__}: {error}")
            self._stop.wait(self._backoff.seconds(pause))

    def _settle(self) -> None:
        """Call it well again."""
        self._failures, self._spoilt, self.failure = 0, False, ""

    def _note_failure(self, text: str) -> int:
        if text and not self._stop.is_set():
            self.failure = text
        self._failures += 1
        return self._failures - 1

    def _follow(self) -> None:
        """List where that is due, then watch until the server ends it."""
        if self._version is None:
            self._version = self._list()
        parameters = self._selected(
            {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._version,
                "timeoutSeconds": str(_WATCH_SECONDS),
            }
        )
        with self._api.stream(_PATH, parameters, _WATCH_SECONDS + 30) as stream:
            self._stream = stream
            if self._stop.is_set():
                return
            if not self._spoilt:
                self.failure = ""
            try:
                for line in stream.lines():
                    self._take(line)
            finally:
                self._stream = None

    def _list(self) -> str:
        """Take all pods, page by page; the version to watch from."""
        pods: dict[str, Pod] = {}
        parameters = self._selected({"limit": _PAGE} | self._list_at)
        for _ in range(_MOST_PAGES):
            answer = self._api.get(_PATH, parameters)
            try:
                items, metadata = answer["items"] or [], answer["metadata"]
                version, rest = str(metadata["resourceVersion"]), str(metadata.get("continue") or "")
                pods |= self._parsed(items)
            except (KeyError, TypeError, AttributeError):
                raise ApiError(f"{self._api.url} answers no list of pods: is it the API server?") from None
            if not rest or len(pods) > self._most_pods:
                break
            parameters = self._selected({"limit": _PAGE, "continue": rest})
        else:
            raise ApiError(f"{self._api.url} answers too much: the list of pods has more than {_MOST_PAGES} pages")
        if not pods and not self._warned_empty:
            self._warned_empty = True
            _log.warning(
                "the API server knows no pod on node %r: if that is not its name, set jobs.kubernetes.node_name",
                self._node,
            )
        kept = dict(list(pods.items())[: self._most_pods])
        self.known = Known(kept, complete=True, left_out=len(pods) - len(kept))
        self._changed()
        # Later on only the newest state will do: what the server's cache has may be older than what was seen here.
        self._list_at = {}
        return version

    def _parsed(self, items: Iterable[Any]) -> dict[str, Pod]:
        pods = {}
        for item in items:
            try:
                pod = parse_pod(item, self._wanted)
            except ValueError as error:
                _log.warning("a pod in the API server's list is left out: %s", error)
                continue
            pods[pod.uid] = pod
        return pods

    def _selected(self, parameters: dict[str, str]) -> dict[str, str]:
        return parameters | {"fieldSelector": f"spec.nodeName={self._node}"}

    def _take(self, line: bytes) -> None:
        """One event of the watch. One that cannot be read may have been a change: all is listed again.

        Raises:
            GoneError: the version is too old, or a pod that was left out may be taken up now.
            ApiError: the server reports an error, or the line is no event.
        """
        try:
            kind, found, version = _event(line)
        except (ValueError, KeyError, TypeError):
            self._version, self._spoilt = None, True
            raise ApiError(f"{self._api.url} sends what is no event of a pod: all pods are listed again") from None
        if kind == "ERROR":
            self._version = None
            if version == _GONE:
                raise GoneError(f"{self._api.url} has forgotten the version asked for: 410")
            raise ApiError(f"{self._api.url} ends the watch: status {version}; pods are listed again")
        if kind == "BOOKMARK":
            self._settle()
        else:
            for pod in self._parsed([found]).values():
                self._apply(kind, pod)
            if kind == "DELETED" and self.known.left_out:
                raise GoneError(f"{self._api.url} may know of pods that were left out: all are listed again")
        self._version = version

    def _apply(self, kind: str, pod: Pod) -> None:
        pods, left_out = self.known.pods, self.known.left_out
        before = pods.get(pod.uid)
        if kind == "DELETED":
            if before:
                kept = {uid: other for uid, other in pods.items() if uid != pod.uid}
                self.known = Known(kept, complete=True, left_out=left_out)
        elif before is None and len(pods) >= self._most_pods:
            if kind == "ADDED":  # one that is modified was left out, and counted, before
                self.known = Known(pods, complete=True, left_out=left_out + 1)
        elif before != pod:  # most events tell of something that is not kept
            self.known = Known({**pods, pod.uid: pod}, complete=True, left_out=left_out)
            if pod.wants_devices:
                self._changed()


def _event(line: bytes) -> tuple[str, Any, str]:
    """Kind, object and version of an event; of an ERROR its status code in place of the version.

    Raises:
        ValueError, KeyError, TypeError: it is none.
    """
    event = orjson.loads(line)
    kind, found = event["type"], event["object"]
    if kind not in _EVENTS:
        raise ValueError(f"{kind!r} is no kind of event")
    if kind == "ERROR":
        return kind, found, str(int(found["code"]))
    return kind, found, str(found["metadata"]["resourceVersion"])
