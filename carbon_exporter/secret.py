"""A secret from a file or from the environment: it stands in no setting, no message and no traceback."""

import base64
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from carbon_exporter.model import ConfigurationError, ProviderError

_HIDDEN: Final = "(the secret)"
_LEAST_TOLD: Final = 6
"""So many first characters give a secret away that is cut off."""


class Secret:
    """One secret, read anew for each use, because tokens are rotated.

    Args:
        file: where it stands; wins over the environment.
        variable: the environment variable that holds it where there is no file.
        environment: such as os.environ.
        key: of the setting that names the file, for messages.
    """

    def __init__(self, file: Path | None, variable: str, environment: Mapping[str, str], key: str = "") -> None:
        self._file = file
        self._value = environment.get(variable, "").strip()
        self.place = f"the environment variable {variable}" if file is None else f"{key}: {file}" if key else str(file)

    def __repr__(self) -> str:
        return f"Secret(from {self.place})"

    def __bool__(self) -> bool:
        """Whether there is one to read."""
        return self._file is not None or bool(self._value)

    def read(self, *, one_word: bool = True) -> str:
        """The secret; "" where none is set.

        Args:
            one_word: whether it is to be printable ASCII without blanks, as a token in a header must.

        Raises:
            ConfigurationError: the file cannot be read or is empty, or it holds more than one word.
        """
        secret = self._value
        if self._file is not None:
            try:
                secret = self._file.read_text(encoding="utf-8").strip()
            except (OSError, ValueError) as error:
                kind = type(error).__name__
                raise ConfigurationError(f"{self.place}: {kind}: make it a text file that this user may read") from None
            if not secret:
                raise ConfigurationError(f"{self.place}: is empty: write the secret into it")
        # requests would quote a header that it refuses, secret and all.
        if one_word and not re.fullmatch(r"[\x21-\x7e]*", secret):
            raise ConfigurationError(
                f"{self.place}: holds more than one word of printable ASCII: write the token alone"
            )
        return secret


def basic_credentials(user: str, password: str) -> str:
    """What follows "Basic " in the header `Authorization` (RFC 7617), in UTF-8."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()


@contextmanager
def concealing(*secrets: str) -> Iterator[None]:
    """Inside it no message of an error holds one of `secrets`: some services repeat what they were sent.

    Also where it is quoted as in a URL, or cut off.
    """
    try:
        yield
    except (ProviderError, ConfigurationError) as error:
        message = str(error)
        for secret in secrets:
            message = _without(message, " ".join(secret.split()))
        error.args = (message,)
        raise


def _without(text: str, secret: str) -> str:
    """`text`; what begins like `secret` is hidden as far as it goes on like it."""
    letters = [_any_form_of(letter) for letter in secret]
    head = re.compile("".join(letters[:_LEAST_TOLD]))
    begin = 0
    while secret and (found := head.search(text, begin)):
        end = found.end()
        for letter in letters[_LEAST_TOLD:]:
            more = re.compile(letter).match(text, end)
            if more is None:
                break
            end = more.end()
        text = text[: found.start()] + _HIDDEN + text[end:]
        begin = found.start() + len(_HIDDEN)
    return text


def _any_form_of(letter: str) -> str:
    """A pattern that finds it, also where it is quoted as in a URL or by a backslash."""
    if letter == " ":
        return r"(?:\s|\+|%20)+"
    in_url = "".join(f"%{byte:02x}" for byte in letter.encode())
    return rf"(?:\\?{re.escape(letter)}|(?i:{in_url}))"
