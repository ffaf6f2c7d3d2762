"""The file of `--web.config.file`: TLS, basic authentication and response headers, in the exporter-toolkit's format.

Source: https://github.com/prometheus/exporter-toolkit/blob/master/docs/web-configuration.md. What is supported of it
stands in docs/web.md; any other key is an error. No message repeats a value of the file: it may be a secret.
"""

import logging
import re
import ssl
from pathlib import Path
from typing import Final, Literal

import yaml
from pydantic import Field, ValidationError

from carbon_exporter.model import ConfigurationError
from carbon_exporter.settings import Settings

CURE: Final = "docs/web.md lists what is supported"
_BCRYPT: Final = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}")
_VERIFY_MODES: Final = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
_TLS_VERSIONS: Final = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_LOGGER: Final = logging.getLogger("carbon_exporter.web")


class TlsSettings(Settings):
    """`tls_server_config`. Go's other two client_auth_type values accept any certificate, which Python's ssl cannot."""

    cert_file: Path | None = None
    key_file: Path | None = None
    client_ca_file: Path | None = None
    client_auth_type: Literal["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"] = "NoClientCert"
    min_version: Literal["TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS12", "TLS13"] = "TLS13"


class HeaderSettings(Settings):
    """`http_server_config.headers`: sent with every response; one that is blank is not sent."""

    content_security_policy: str = Field(default="", alias="Content-Security-Policy")
    x_frame_options: Literal["", "deny", "sameorigin"] = Field(default="", alias="X-Frame-Options")
    x_content_type_options: Literal["", "nosniff"] = Field(default="", alias="X-Content-Type-Options")
    x_xss_protection: str = Field(default="", alias="X-XSS-Protection")
    strict_transport_security: str = Field(default="", alias="Strict-Transport-Security")


class HttpSettings(Settings):
    """`http_server_config`. The server speaks HTTP/1.1, so `http2` may only be switched off."""

    http2: Literal[False] = False
    headers: HeaderSettings = HeaderSettings()


class WebConfig(Settings):
    """The whole file. Paths in it are absolute once it is loaded."""

    tls_server_config: TlsSettings | None = None
    http_server_config: HttpSettings = HttpSettings()
    basic_auth_users: dict[str, str] = Field(default_factory=dict, repr=False)

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The (name, value) pairs to send with every response."""
        headers = self.http_server_config.headers.model_dump(by_alias=True)
        return [(name, value) for name, value in headers.items() if value]


def load_web_config(path: Path) -> WebConfig:
    """Read and check the file; the certificates themselves are read by `TlsContext`.

    Raises:
        ConfigurationError: one line naming the file, the key and the cure, and no value.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--web.config.file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"--web.config.file {path} is not UTF-8 text") from None
    except yaml.YAMLError as error:
        # The rest of the message quotes the file.
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark else ""
        raise ConfigurationError(f"--web.config.file {path} is not YAML{line}") from None
    if raw is not None and not isinstance(raw, dict):
        raise ConfigurationError(f"--web.config.file {path} holds no mapping of keys: {CURE}")
    try:
        config = WebConfig.model_validate(raw or {})
    except ValidationError as error:
        raise ConfigurationError(f"--web.config.file {path}: {_first_problem(error)}") from None
    problem = _problem_of_users(config) or _problem_of_headers(config) or _problem_of_tls(config)
    if problem:
        raise ConfigurationError(f"--web.config.file {path}: {problem}")
    return _with_absolute_paths(config, path.absolute().parent)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_input=False, include_context=False, include_url=False)[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        return f"{key} is not supported: remove it; {CURE}"
    if key == "http_server_config.http2":
        return f"{key} may only be false, this server speaks HTTP/1.1: set it so or remove it"
    return f"{key}: {problem['msg']}; {CURE}"


def _problem_of_users(config: WebConfig) -> str | None:
    for user, bcrypt_hash in config.basic_auth_users.items():
        if not user or ":" in user:
            return f"basic_auth_users: the user name {user!r} is empty or has a colon, which HTTP cannot carry"
        if not _BCRYPT.fullmatch(bcrypt_hash):
            return f"basic_auth_users.{user} is not a bcrypt hash: make one with `htpasswd -nBC 10 {user}`"
    return None


def _problem_of_headers(config: WebConfig) -> str | None:
    for name, value in config.headers:
        if not (value.isascii() and value.isprintable()):
            return f"http_server_config.headers.{name} has characters that no header may have: use printable ASCII"
    return None


def _problem_of_tls(config: WebConfig) -> str | None:
    tls = config.tls_server_config
    if tls is None:
        return None
    if tls.cert_file is None or tls.key_file is None:
        return f"tls_server_config.{'key_file' if tls.cert_file else 'cert_file'} is missing: give its path"
    if tls.client_ca_file is not None and tls.client_auth_type == "NoClientCert":
        return "tls_server_config.client_ca_file needs client_auth_type: RequireAndVerifyClientCert"
    if tls.client_ca_file is None and tls.client_auth_type != "NoClientCert":
        return f"tls_server_config.client_ca_file is missing: client_auth_type {tls.client_auth_type} needs it"
    if tls.min_version > tls.max_version:
        return "tls_server_config.min_version is above max_version: lower it"
    return None


def _with_absolute_paths(config: WebConfig, directory: Path) -> WebConfig:
    tls = config.tls_server_config
    if tls is None:
        return config
    files = {name: getattr(tls, name) for name in ("cert_file", "key_file", "client_ca_file")}
    absolute = {name: directory / file for name, file in files.items() if file is not None}
    return config.model_copy(update={"tls_server_config": tls.model_copy(update=absolute)})


class TlsContext:
    """The server's TLS settings; files that changed on disk hold from the next connection on.

    Raises:
        ConfigurationError: a file is missing, unreadable or no use; the message names it.
    """

    def __init__(self, tls: TlsSettings) -> None:
        self._tls = tls
        self._files = [file for file in (tls.cert_file, tls.key_file, tls.client_ca_file) if file is not None]
        self._versions = self._file_versions()
        self.context = self._current = self._load()
        """Give this one to the server: each handshake takes what is current."""
        self.context.sni_callback = self._renew

    def _file_versions(self) -> list[tuple[int, int, int] | None]:
        return [_file_version(file) for file in self._files]

    def _load(self) -> ssl.SSLContext:
        tls = self._tls
        for file in self._files:
            _check_readable(file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _TLS_VERSIONS[tls.min_version]
        context.maximum_version = _TLS_VERSIONS[tls.max_version]
        context.set_alpn_protocols(["http/1.1"])
        try:
            # An encrypted key must fail, not ask for its password on a terminal.
            context.load_cert_chain(str(tls.cert_file), tls.key_file, password=lambda: "")
        except (ssl.SSLError, ValueError):
            raise ConfigurationError(
                f"cert_file {tls.cert_file} and key_file {tls.key_file} must be a PEM certificate and its own key, "
                "not encrypted"
            ) from None
        if tls.client_ca_file is not None:
            try:
                context.load_verify_locations(tls.client_ca_file)
            except ssl.SSLError:
                raise ConfigurationError(f"client_ca_file {tls.client_ca_file} must hold a PEM certificate") from None
        context.verify_mode = _VERIFY_MODES[tls.client_auth_type]
        return context

    def _renew(self, connection: ssl.SSLObject, _server_name: str | None, _context: ssl.SSLContext) -> None:
        """OpenSSL calls this in every handshake, whether the client named a server or not."""
        versions = self._file_versions()
        if versions != self._versions:
            self._versions = versions  # also where they fail: each change is tried, and reported, once
            try:
                self._current = self._load()
                _LOGGER.info("the TLS files have changed: new connections use them")
            except ConfigurationError as error:
                _LOGGER.warning("the TLS files have changed and the old ones stay in use: %s", error)
        connection.context = self._current


def _file_version(file: Path) -> tuple[int, int, int] | None:
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_ino, stat.st_size


def _check_readable(file: Path) -> None:
    try:
        file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"TLS file {file} cannot be read: {error.strerror}") from None
