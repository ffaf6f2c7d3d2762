"""Asks the Kubernetes API server, with the service account of this pod.

https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

import contextlib
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import requests

CONNECT_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 15.0
_LARGEST_ANSWER: Final = 64 * 2**20
_LARGEST_LINE: Final = 8 * 2**20
_CHUNK: Final = 65_536
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"})
"""What OpenSSL, by its version, makes of an answer that is not TLS."""


class ApiError(Exception):
    """No usable answer; the message is one line with the URL, the cause and the cure, and no secret."""


class GoneError(ApiError):
    """What was told since the version asked for is not to be had: list again (410)."""


class NotFoundError(ApiError):
    """The server knows no such resource (404)."""


class Api:
    """One API server.

    Args:
        url: without a path at its end.
        token_file: read again for each request, for the kubelet renews it; "" for none. It is sent over TLS only.
        ca_file: who signs the server's certificate; "" for those the system trusts.
    """

    def __init__(self, url: str, token_file: str, ca_file: str) -> None:
        self.url = url
        self._token_file = token_file
        self._ca_file = ca_file
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy and no .netrc between this pod and its cluster
        self._session.verify = ca_file or True
        self._session.headers["Accept-Encoding"] = "identity"  # so that the limits count what is kept in memory

    def get(self, path: str, parameters: Mapping[str, str]) -> Any:
        """The JSON at `path`, of at most 64 MiB.

        Raises:
            ApiError: there is no such answer.
        """
        with self._request(path, parameters, ANSWER_SECONDS) as response, self._naming_errors():
            body = bytearray()
            for part in response.iter_content(_CHUNK):
                body += part
                if len(body) > _LARGEST_ANSWER:
                    raise ApiError(f"{self.url} answers too much: {path} has more than {_LARGEST_ANSWER >> 20} MiB")
            return orjson.loads(body)

    @contextlib.contextmanager
    def stream(self, path: str, parameters: Mapping[str, str], silence_seconds: float) -> Iterator["Stream"]:
        """The lines at `path` as they come; a connection that is silent for longer is given up.

        Raises:
            ApiError: the server does not answer, or refuses.
        """
        with self._request(path, parameters, silence_seconds) as response, self._naming_errors():
            yield Stream(self.url, response)

    @contextlib.contextmanager
    def _request(self, path: str, parameters: Mapping[str, str], silence_seconds: float) -> Iterator[requests.Response]:
        if self._ca_file and not Path(self._ca_file).is_file() and self.url.startswith("https://"):
            raise ApiError(
                f"{self._ca_file} is missing: mount the service account, or set jobs.kubernetes.ca_file; "
                '"" trusts the certificates that the system trusts'
            )
        with self._naming_errors():
            response = self._session.get(
                self.url + path,
                params=parameters,
                headers=self._authorization(),
                stream=True,
                timeout=(CONNECT_SECONDS, silence_seconds),
                allow_redirects=False,
            )
        with contextlib.closing(response):
            if response.status_code != requests.codes.ok:
                raise self._refusal(path, response.status_code)
            yield response

    def _authorization(self) -> dict[str, str]:
        if not self._token_file or not self.url.startswith("https://"):
            return {}
        try:
            token = Path(self._token_file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no token"
            raise ApiError(
                f"{self._token_file} cannot be read: {reason}; mount the service account's token, "
                "or set jobs.kubernetes.token_file"
            ) from None
        if not token.isprintable() or " " in token:
            raise ApiError(f"{self._token_file} holds no token: one word is expected")
        return {"Authorization": f"Bearer {token}"}

    def _refusal(self, path: str, status: int) -> ApiError:
        resource = path.rpartition("/")[2]
        if status == requests.codes.unauthorized:
            return ApiError(f"{self.url} refuses {resource}: 401, it does not know the token in {self._token_file!r}")
        if status == requests.codes.forbidden:
            return ApiError(
                f"{self.url} refuses {resource}: 403, allow the service account to get, list and watch {resource} "
                "with a ClusterRole and its binding"
            )
        if status == requests.codes.not_found:
            # Every API server has the core of the API.
            cure = ", is it the API server? check jobs.kubernetes.api_url" if path.startswith("/api/v1/") else ""
            return NotFoundError(f"{self.url} has no {path}: 404{cure}")
        if status == requests.codes.gone:
            return GoneError(f"{self.url} has forgotten the version asked for: 410")
        return ApiError(f"{self.url} answers {status}: {path} is asked for again")

    @contextlib.contextmanager
    def _naming_errors(self) -> Iterator[None]:
        """Turn what requests, TLS and JSON raise into one line; whatever else it is, it names its type only."""
        try:
            yield
        except orjson.JSONDecodeError:
            raise ApiError(f"{self.url} answers no JSON: is jobs.kubernetes.api_url the API server?") from None
        except requests.exceptions.SSLError as error:
            if any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in _causes(error)):
                raise ApiError(
                    f"{self.url} speaks no TLS: set jobs.kubernetes.api_url to its https port, or to http://"
                ) from None
            raise ApiError(
                f"{self.url} is not trusted: its certificate is for another name, or not by jobs.kubernetes.ca_file"
            ) from None
        except requests.exceptions.Timeout:
            raise ApiError(f"{self.url} does not answer: timed out; jobs known so far are kept") from None
        except (requests.RequestException, OSError, ValueError, RuntimeError) as error:
            raise ApiError(f"{self.url} does not answer: {_cause(error)}; jobs known so far are kept") from None

    def close(self) -> None:
        """Close the connections that are not in use."""
        self._session.close()


class Stream:
    """An answer that goes on; `cut` may be called from another thread."""

    def __init__(self, url: str, response: requests.Response) -> None:
        self._url = url
        self._response = response

    def lines(self) -> Iterator[bytes]:
        """Each whole line, without empty ones; they end where the server ends them or the connection breaks.

        Raises:
            ApiError: a line is longer than 8 MiB; a whole object in etcd has 1.5 MiB at most.
        """
        rest = b""
        with contextlib.suppress(requests.RequestException):
            for part in self._response.iter_content(_CHUNK):
                *lines, rest = (rest + part).split(b"\n")
                yield from filter(None, lines)
                if len(rest) > _LARGEST_LINE:
                    raise ApiError(f"{self._url} answers too much: a line has more than {_LARGEST_LINE >> 20} MiB")

    def cut(self) -> None:
        """End `lines`, also while it waits."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._response.raw.shutdown()


def _cause(error: BaseException) -> str:
    """The operating system's own words where they are the cause, else the kind of error: texts may hold secrets."""
    for cause in _causes(error):
        if type(cause).__module__ == "builtins" and isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return type(error).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what each was raised for."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        inner = [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
        cause = next((part for part in inner if isinstance(part, BaseException)), None)
