"""The one way out to a grid provider: a GET within bounds of time and size, over the proxies of the environment."""

import logging
import ssl
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import requests
import urllib3

from carbon_exporter import __version__
from carbon_exporter.model import ConfigurationError, ProviderError, WebAnswer
from carbon_exporter.secret import basic_credentials

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0
LARGEST_ANSWER: Final = 8 * 2**20
"""Bytes, unpacked."""
_CHUNK: Final = 65_536
_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class BoundedWeb:
    """Implements model.Web.

    Args:
        ca_file: PEM certificates that sign the servers' own; None for those of the system or REQUESTS_CA_BUNDLE.
        answer_seconds: for a whole answer, from the request to its last byte.
        clock: monotonic seconds.
        ca_key: the setting or flag that names ca_file, for messages.

    Raises:
        ConfigurationError: ca_file is no file of PEM certificates.
    """

    def __init__(
        self,
        ca_file: Path | None = None,
        answer_seconds: float = ANSWER_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        ca_key: str = "intensity.ca_file",
    ) -> None:
        if ca_file is not None:
            _check_certificates(ca_file, ca_key)
        self._ca_key = ca_key
        self._answer_seconds = answer_seconds
        self._clock = clock
        # At level debug urllib3 writes every URL with its query, and so the keys that some providers want there.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
        self._session = _Session()
        self._session.headers.update({"User-Agent": f"carbon-exporter/{__version__}", "Accept-Encoding": "gzip"})
        # Given with each request: one that is set on the session yields to REQUESTS_CA_BUNDLE.
        self._verify = str(ca_file) if ca_file is not None else None

    def get(
        self,
        url: str,
        parameters: Mapping[str, str] = _NOTHING,
        headers: Mapping[str, str] = _NOTHING,
        auth: tuple[str, str] | None = None,
    ) -> WebAnswer:
        """As model.Web.get. What requests says of an error is never repeated: it may quote a key in the query."""
        plain_url = url.partition("?")[0]
        deadline = self._clock() + self._answer_seconds
        # Not by requests: it would write a password in Latin-1, where RFC 7617 and our own services have UTF-8.
        signed = {"Authorization": f"Basic {basic_credentials(*auth)}"} if auth is not None else {}
        try:
            with self._session.get(
                url,
                params=dict(parameters),
                headers={**headers, **signed},
                auth=_sign_nothing,
                timeout=(CONNECT_SECONDS, self._answer_seconds),
                allow_redirects=False,
                stream=True,
                verify=self._verify,
            ) as response:
                names = {name.lower(): value for name, value in response.headers.items()}
                body = self._read(plain_url, response.raw, names, deadline)
                return WebAnswer(plain_url, response.status_code, body, names)
        except (requests.Timeout, urllib3.exceptions.TimeoutError):
            raise self._timeout(plain_url) from None
        except requests.exceptions.SSLError:
            cure = f"is its certificate signed by whom the system trusts ({self._ca_key})?"
            raise ProviderError("unreachable", f"{plain_url}: TLS failed: {cure}") from None
        except requests.exceptions.ProxyError:
            cure = "see HTTPS_PROXY and NO_PROXY"
            raise ProviderError("unreachable", f"{plain_url}: the proxy cannot be used: {cure}") from None
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.DecodeError):
            raise ProviderError("parse", f"{plain_url}: the answer is cut off: it is asked again later") from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            cure = "can this host reach it?"
            raise ProviderError("unreachable", f"{plain_url}: {type(error).__name__}: {cure}") from None

    def _read(self, url: str, raw: urllib3.BaseHTTPResponse, headers: Mapping[str, str], deadline: float) -> bytes:
        packed = bytearray()
        # read1 returns what has come: read would wait for the whole of a chunk that drips in byte by byte.
        while part := raw.read1(_CHUNK, decode_content=False):
            packed += part
            if len(packed) > LARGEST_ANSWER:
                raise _too_large(url)
            if self._clock() > deadline:
                raise self._timeout(url)
        promised = headers.get("content-length", "")
        if promised.isdigit() and len(packed) < int(promised):
            raise ProviderError("parse", f"{url}: the answer is cut off: it is asked again later")
        return _unpacked(url, bytes(packed), headers.get("content-encoding", ""))

    def _timeout(self, url: str) -> ProviderError:
        return ProviderError(
            "timeout", f"{url}: no whole answer in {self._answer_seconds:g} s: it is asked again later"
        )


class _Session(requests.Session):
    """requests reads the body of a redirect even when it is not to follow it, without our bounds."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
        """There is never one."""
        return None


def _sign_nothing(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Stands where requests would else take a password from .netrc."""
    return request


def _check_certificates(ca_file: Path, key: str) -> None:
    if not ca_file.is_file():
        raise ConfigurationError(f"{key}: {ca_file}: is no file: name one of PEM certificates")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(ca_file)
    except ssl.SSLError:
        raise ConfigurationError(f"{key}: {ca_file}: holds no PEM certificates: name a file that does") from None
    except OSError as error:
        raise ConfigurationError(f"{key}: {ca_file}: {error.strerror}: let this user read it") from None


def _unpacked(url: str, packed: bytes, encoding: str) -> bytes:
    if encoding.lower() not in ("gzip", "x-gzip"):
        return packed
    unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        body = unpacker.decompress(packed, LARGEST_ANSWER + 1)
    except zlib.error:
        raise ProviderError("parse", f"{url}: the answer is no gzip: is a proxy at fault?") from None
    if len(body) > LARGEST_ANSWER:
        raise _too_large(url)
    if not unpacker.eof:
        raise ProviderError("parse", f"{url}: the answer is cut off: it is asked again later")
    return body


def _too_large(url: str) -> ProviderError:
    return ProviderError("parse", f"{url}: answers more than {LARGEST_ANSWER >> 20} MiB: is the URL right?")
