"""The base of every settings class: a key that nobody knows is an error, and nothing changes after loading."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Validated settings of one room or one plug-in; every field has a default."""

    model_config = ConfigDict(extra="forbid", frozen=True)
