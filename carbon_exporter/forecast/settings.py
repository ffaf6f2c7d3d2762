"""Settings of the forecast service, and how it proves to the PromQL engine who it is."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests
from pydantic import Field, field_validator, model_validator

from carbon_exporter import settings
from carbon_exporter.model import ConfigurationError
from carbon_exporter.secret import Secret

PASSWORD_VARIABLE: Final = "CARBON_PROMETHEUS_PASSWORD"  # noqa: S105 - the name of a variable, not a password
TOKEN_VARIABLE: Final = "CARBON_PROMETHEUS_BEARER_TOKEN"  # noqa: S105


class Settings(settings.Settings):
    """Settings of `carbon-exporter forecast`.

    Secrets are never written here: a password or bearer token comes from the file named, or from the environment
    (CARBON_PROMETHEUS_PASSWORD, CARBON_PROMETHEUS_BEARER_TOKEN).
    """

    prometheus_url: settings.PlainUrl = "http://127.0.0.1:9090"
    poll_seconds: float = Field(default=30, ge=0.1, le=3600)
    timeout_seconds: float = Field(default=10, gt=0, le=300)
    largest_answer_bytes: int = Field(default=64 * 2**20, ge=1024)
    push_max_age_seconds: float = Field(default=300, gt=0)
    ended_jobs_kept_seconds: float = Field(default=300, ge=0)
    most_jobs: int = Field(default=10_000, ge=1)
    history_file: Path | None = Path("/var/lib/carbon-exporter/history.sqlite")
    headers: dict[str, str] = Field(default_factory=dict)
    username: str = ""
    password_file: Path | None = None
    bearer_token_file: Path | None = None
    ca_file: Path | None = None

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
        variable = PASSWORD_VARIABLE if chosen.username else TOKEN_VARIABLE
        self._secret = Secret(chosen.password_file or chosen.bearer_token_file, variable, environment)

    def __repr__(self) -> str:
        return f"Identity(from {self._secret.place})"

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Sign `request`.

        Raises:
            ConfigurationError: the file cannot be read, or what it holds cannot stand in a header.
        """
        secret = self._secret.read(one_word=not self._username)
        if self._username:
            pair = base64.b64encode(f"{self._username}:{secret}".encode()).decode()
            request.headers["Authorization"] = f"Basic {pair}"
        elif secret:
            request.headers["Authorization"] = f"Bearer {secret}"
        return request


class _Session(requests.Session):
    """By itself it would take REQUESTS_CA_BUNDLE before the certificates that it was given."""

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """The settings of one request."""
        own = self.verify if verify is None and self.verify is not True else verify
        return super().merge_environment_settings(url, proxies, stream, own, cert)


def open_session(chosen: Settings, environment: Mapping[str, str]) -> requests.Session:
    """A session that sends the headers and the identity that `chosen` asks for.

    Raises:
        ConfigurationError: ca_file is no file.
    """
    if chosen.ca_file is not None and not chosen.ca_file.is_file():
        raise ConfigurationError(f"forecast.ca_file: {chosen.ca_file}: is no file: name one of PEM certificates")
    session = _Session()
    session.headers.update(chosen.headers)
    session.auth = Identity(chosen, environment)
    if chosen.ca_file is not None:
        session.verify = str(chosen.ca_file)
    return session
