"""The base of every settings class: a key that nobody knows is an error, and nothing changes after loading."""

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from carbon_exporter.model import ConfigurationError


class Settings(BaseModel):
    """Validated settings of one room or one plug-in; every field has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


AnySettings = TypeVar("AnySettings", bound=Settings)


def validated(kind: type[AnySettings], values: Any, where: str) -> AnySettings:
    """`values`, as YAML gave them, as settings of that kind; `where` is the key they stand under.

    Raises:
        ConfigurationError: one line that names each bad key and what is wrong with it, never its value.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"{where}: must be a mapping of keys to values")
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError("; ".join(_problem(kind, where, e) for e in error.errors())) from None


def _problem(kind: type[Settings], where: str, error: Any) -> str:
    key = ".".join([*([where] if where else []), *(str(part) for part in error["loc"])])
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        return f"{key}: unknown key; known keys here: {', '.join(sorted(kind.model_fields))}"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}"
