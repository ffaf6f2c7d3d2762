"""A Pushgateway over HTTP: one group per training job, replaced, deleted and asked about.

Source: the Pushgateway's README, sections API and "About metric inconsistencies". A name always goes into the path in
its base64 form: unlike the plain form it also carries slashes, "." and "..".
"""

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from carbon_exporter.metrics import CONTENT_TYPE, PUSH_JOB, TRAINING_START
from carbon_exporter.model import ConfigurationError
from carbon_exporter.push.training import Training

URL: Final = "CARBON_PUSHGATEWAY_URL"
USERNAME: Final = "CARBON_PUSHGATEWAY_USERNAME"
PASSWORD: Final = "CARBON_PUSHGATEWAY_PASSWORD"  # noqa: S105 - the variable's name
PASSWORD_FILE: Final = "CARBON_PUSHGATEWAY_PASSWORD_FILE"  # noqa: S105 - the variable's name
TIMEOUT_SECONDS: Final = 5.0
LARGEST_ANSWER_BYTES: Final = 256 * 2**20

_CURES: Final = {
    400: "it refuses the metrics: another group has one of these names with another type; its log says which",
    401: f"check {USERNAME} and {PASSWORD} or {PASSWORD_FILE}",
    403: f"check {USERNAME} and {PASSWORD} or {PASSWORD_FILE}",
    404: f"there is no Pushgateway at this URL: check {URL}",
    405: f"there is no Pushgateway at this URL: check {URL}",
}


class GatewayError(Exception):
    """The gateway did not do what it was asked; the message is one line with the URL and the cause, no secret."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: followed, it would carry the password to another server."""

    def redirect_request(self, *_: object) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to push and as whom. The password file is read at every request, so that a new password counts at once."""

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_file: str | None = None

    def push(self, training: Training) -> None:
        """Replace the job's group (PUT).

        Raises:
            GatewayError: it was not confirmed.
        """
        self._request("PUT", _group_path(training.name), training.exposition())

    def delete(self, name: str) -> None:
        """Delete the job's group; one that is not there is no error.

        Raises:
            GatewayError: it was not confirmed.
        """
        self._request("DELETE", _group_path(name))

    def started_seconds(self, name: str) -> float | None:
        """When the run that pushed last to this job's group started; None without a group or without that value.

        Raises:
            GatewayError: the gateway does not answer, or not with a list of groups.
        """
        text = self._request("GET", "/api/v1/metrics")
        try:
            for group in json.loads(text)["data"]:
                if (group["labels"].get("job"), group["labels"].get("training_job")) == (PUSH_JOB, name):
                    family = group.get(TRAINING_START.name)
                    return None if family is None else float(family["metrics"][0]["value"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise GatewayError(f"{self.url}/api/v1/metrics does not answer as a Pushgateway: check {URL}") from None
        return None

    def _request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = {"Content-Type": CONTENT_TYPE} if body is not None else {}
        headers |= self._authorization()
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 - http(s) only, see checked_url
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_SECONDS) as response:
                answer: bytes = response.read(LARGEST_ANSWER_BYTES) if method == "GET" else b""
        except urllib.error.HTTPError as error:
            error.close()
            cure = _CURES.get(error.code, "see its log" if error.code >= 500 else f"check {URL}")
            raise GatewayError(f"{self.url} answers {error.code}: {cure}") from None
        except Exception as error:  # noqa: BLE001 - what a server or a proxy sends must never reach a training run
            raise GatewayError(f"{self.url}: {_reason(error)}") from None
        return answer

    def _authorization(self) -> dict[str, str]:
        if self.username is None:
            return {}
        password = self.password
        if self.password_file is not None:
            try:
                password = Path(self.password_file).read_text(encoding="utf-8").rstrip("\r\n")
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
                raise GatewayError(f"{PASSWORD_FILE}={self.password_file} cannot be read: {reason}") from None
        pair = f"{self.username}:{password}".encode("utf-8", "surrogateescape")
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def from_environment(environment: Mapping[str, str], url: str | None = None) -> Gateway | None:
    """The gateway at `url`, or at $CARBON_PUSHGATEWAY_URL; None where neither is set. Reads no file.

    Raises:
        ConfigurationError: the URL or the credentials cannot be used.
    """
    url = url or environment.get(URL, "").strip()
    if not url:
        return None
    username, password, password_file = (environment.get(key) or None for key in (USERNAME, PASSWORD, PASSWORD_FILE))
    if password is not None and password_file is not None:
        raise ConfigurationError(f"{PASSWORD} and {PASSWORD_FILE} are both set: keep one")
    if (username is None) != (password is None and password_file is None):
        raise ConfigurationError(f"set {USERNAME} and {PASSWORD} or {PASSWORD_FILE} together, or none of them")
    return Gateway(checked_url(url), username, password, password_file)


def checked_url(url: str) -> str:
    """`url` with a scheme (http:// unless given) and without a slash at its end.

    Raises:
        ConfigurationError: it is none, or holds a password; the message does not repeat the URL.
    """
    if "@" in url:
        raise ConfigurationError(f"{URL}: no user or password in the URL; set {USERNAME} and {PASSWORD}")
    full = (url if "://" in url else f"http://{url}").rstrip("/")
    try:
        parts = urlsplit(full)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.query or parts.fragment or not full.isascii() or not full.isprintable() or " " in full:
        raise ConfigurationError(f"{URL} is not a URL such as http://pushgateway:9091")
    return full


def _group_path(name: str) -> str:
    return f"/metrics/job/{PUSH_JOB}/training_job@base64/{base64.urlsafe_b64encode(name.encode()).decode()}"


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"no answer in {TIMEOUT_SECONDS:g} s: is it overloaded, or a firewall in the way?"
    if isinstance(cause, ConnectionRefusedError):
        return f"connection refused: is the Pushgateway running, and {URL} right?"
    if isinstance(cause, OSError) and cause.strerror:
        return f"{cause.strerror}: check {URL}"
    return f"it does not answer in HTTP: check {URL}"
