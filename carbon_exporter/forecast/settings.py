"""Settings of the forecast service, and how it proves to the PromQL engine who it is."""

import base64
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import requests
from pydantic import Field, field_validator, model_validator

from carbon_exporter import settings
from carbon_exporter.model import ConfigurationError

PASSWORD_VARIABLE: Final = "CARBON_PROMETHEUS_PASSWORD"  # noqa: S105 - the name of a variable, not a password
TOKEN_VARIABLE: Final = "CARBON_PROMETHEUS_BEARER_TOKEN"  # noqa: S105


class Settings(settings.Settings):
    """Settings of `carbon-exporter forecast`.

    Secrets are never written here: a password or bearer token comes from the file named, or from the environment
    (CARBON_PROMETHEUS_PASSWORD, CARBON_PROMETHEUS_BEARER_TOKEN).
    """

    prometheus_url: str = "http://127.0.0.1:9090"
    poll_seconds: float = Field(default=30, ge=0.1, le=3600)
    timeout_seconds: float = Field(default=10, gt=0, le=300)
    largest_answer_bytes: int = Field(default=64 * 2**20, ge=1024)
    push_max_age_seconds: float = Field(default=300, gt=0)
    ended_jobs_kept_seconds: float = Field(default=300, ge=0)
    most_jobs: int = Field(default=10_000, ge=1)
    headers: dict[str, str] = Field(default_factory=dict)
    username: str = ""
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None

    @field_validator("prometheus_url")
    @classmethod
    def _is_a_plain_url(cls, url: str) -> str:
        if not re.match(r"https?://[^/]", url):
            raise ValueError("give a URL such as http://127.0.0.1:9090")
        if "@" in url or "?" in url or "#" in url:
            raise ValueError("give the URL without user, password or query; use username and password_file")
        return url.rstrip("/")

    @field_validator("headers")
    @classmethod
    def _hold_no_secret(cls, headers: dict[str, str]) -> dict[str, str]:
        if any(name.lower() == "authorization" for name in headers):
            raise ValueError("Authorization is a secret: use bearer_token_file, or username and password_file")
        return headers

    @model_validator(mode="after")
    def _have_one_identity(self) -> "Settings":
        if self.bearer_token_file and (self.username or self.password_file):
            raise ValueError("bearer_token_file and username/password_file exclude each other")
        if self.password_file and not self.username:
            raise ValueError("password_file needs username")
        return self


class Identity(requests.auth.AuthBase):
    """Adds the Authorization header; a secret in a file is read for each request, because tokens are rotated."""

    def __init__(self, chosen: Settings, environment: Mapping[str, str]) -> None:
        self._username = chosen.username
        self._file = chosen.password_file or chosen.bearer_token_file
        self._variable = PASSWORD_VARIABLE if chosen.username else TOKEN_VARIABLE
        self._value = environment.get(self._variable, "")

    def __repr__(self) -> str:
        return f"Identity(from {self._file or self._variable})"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign `request`.

        Raises:
            ConfigurationError: the file cannot be read, or what it holds cannot stand in a header.
        """
        secret = self._secret()
        if self._username:
            pair = base64.b64encode(f"{self._username}:{secret}".encode()).decode()
            request.headers["Authorization"] = f"Basic {pair}"
        elif secret:
            request.headers["Authorization"] = f"Bearer {secret}"
        return request

    def _secret(self) -> str:
        if self._file is None:
            secret, place = self._value.strip(), f"the environment variable {self._variable}"
        else:
            place = str(self._file)
            try:
                secret = self._file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                kind = type(error).__name__
                raise ConfigurationError(f"{place}: {kind}: make it a text file that this user may read") from None
            if not secret:
                raise ConfigurationError(f"{place}: is empty: write the secret into it")
        # requests would quote a header that it refuses, secret and all.
        if not self._username and not re.fullmatch(r"[\x21-\x7e]*", secret):
            raise ConfigurationError(f"{place}: holds more than one word of printable ASCII: write the token alone")
        return secret


def open_session(chosen: Settings, environment: Mapping[str, str]) -> requests.Session:
    """A session that sends the headers and the identity that `chosen` asks for.

    Raises:
        ConfigurationError: ca_file is no file.
    """
    if chosen.ca_file is not None and not chosen.ca_file.is_file():
        raise ConfigurationError(f"forecast.ca_file: {chosen.ca_file}: is no file: name one of PEM certificates")
    session = requests.Session()
    session.headers.update(chosen.headers)
    session.auth = Identity(chosen, environment)
    if chosen.ca_file is not None:
        session.verify = str(chosen.ca_file)
    return session
