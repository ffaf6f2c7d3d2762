"""The base of every settings class: a key that nobody knows is an error, and nothing changes after loading."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from carbon_exporter.model import ConfigurationError


class Settings(BaseModel):
    """Validated settings of one room or one plug-in; every field has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


def _without_user_and_query(url: str) -> str:
    if not re.fullmatch(r"https?://[^/@?#\s]+(/[^@?#\s]*)?", url):
        raise ValueError("must be http://HOST[:PORT][/PATH] or https://..., without user or query")
    return url.rstrip("/")


PlainUrl = Annotated[str, AfterValidator(_without_user_and_query)]
"""Where a service is, without user and query; a slash at its end is taken off."""
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
    # pydantic's "[key]" says that the name before it is the key that is wrong.
    key = ".".join([*([where] if where else []), *(str(part) for part in error["loc"] if part != "[key]")])
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(_keys_at(kind, error["loc"][:-1]))) or "none"
        return f"{key}: unknown key; known keys here: {known}"
    text = error["msg"].removeprefix("Value error, ")
    cure = "; write it in quotes" if error["type"] == "string_type" else ""
    return f"{key}: {text[0].lower()}{text[1:]}{cure}"


def _keys_at(kind: type[BaseModel], path: Sequence[Any]) -> Iterable[str]:
    """The keys of the settings that lie at `path` inside `kind`."""
    for name in path:
        inner = kind.model_fields[str(name)].annotation if str(name) in kind.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        kind = inner
    return kind.model_fields
