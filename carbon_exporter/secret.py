"""A secret from a file or from the environment: it stands in no setting, no message and no traceback."""

import re
from collections.abc import Mapping
from pathlib import Path

from carbon_exporter.model import ConfigurationError


class Secret:
    """One secret, read anew for each use, because tokens are rotated.

    Args:
        file: where it stands; wins over the environment.
        variable: the environment variable that holds it where there is no file.
        environment: such as os.environ.
    """

    def __init__(self, file: Path | None, variable: str, environment: Mapping[str, str]) -> None:
        self._file = file
        self._value = environment.get(variable, "").strip()
        self.place = str(file) if file is not None else f"the environment variable {variable}"

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
