"""A scraper that costs little itself: one keep-alive connection, gzip asked for, the answer read to its end."""

import gzip
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from urllib.parse import urlsplit


class Scraper:
    """A client of one URL's /metrics."""

    def __init__(self, url: str) -> None:
        host, _, port = urlsplit(url).netloc.partition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = f"GET /metrics HTTP/1.1\r\nHost: {host}:{port}\r\nAccept-Encoding: gzip\r\n\r\n".encode()

    def __enter__(self) -> "Scraper":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def scrape(self) -> bytes:
        """The body, as it was sent.

        Raises:
            OSError: the server is gone, answers nothing for 10 s, or with another status than 200.
        """
        self._socket.sendall(self._request)
        head, _, body = self._until(b"", b"\r\n\r\n").partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise OSError(f"answered {head.splitlines()[0].decode()}")
        _, _, length = head.lower().partition(b"content-length: ")
        if not length:
            return self._until(body, b"\r\n0\r\n\r\n")
        missing = int(length.split(b"\r\n", 1)[0]) - len(body)
        parts = [body]
        while missing > 0:
            parts.append(self._received())
            missing -= len(parts[-1])
        return b"".join(parts)

    def seconds(self) -> float:
        """How long one scrape takes."""
        start = time.perf_counter()
        self.scrape()
        return time.perf_counter() - start

    def _until(self, received: bytes, end: bytes) -> bytes:
        while end not in received:
            received += self._received()
        return received

    def _received(self) -> bytes:
        received = self._socket.recv(262144)
        if not received:
            raise OSError("the server closed the connection")
        return received


def series(page: bytes) -> int:
    """How many series a page has, as `Scraper.scrape` gave it with a Content-Length."""
    return sum(not line.startswith(b"#") for line in gzip.decompress(page).splitlines())


def burst(scrapers: list[Scraper], count: int) -> list[float]:
    """All scrapers at once scrape `count` times each, one scrape after the other: how long each scrape took.

    Raises:
        OSError: as Scraper.scrape.
    """
    if not scrapers:
        return []
    with ThreadPoolExecutor(len(scrapers)) as threads:
        found = threads.map(lambda scraper: [scraper.seconds() for _ in range(count)], scrapers)
        return [seconds for of_one in found for seconds in of_one]


def percentile(seconds: list[float], percent: int) -> float:
    """The value that so many percent of the scrapes did not exceed."""
    return statistics.quantiles(seconds, n=100, method="inclusive")[percent - 1]
