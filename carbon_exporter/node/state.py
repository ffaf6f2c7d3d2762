"""The node agent's memory over restarts: one JSON file, replaced whole, believed only if it is this host's own."""

import fcntl
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import orjson

from carbon_exporter.model import ConfigurationError, Json, Roots
from carbon_exporter.procfs import read_boot_id

SCHEMA: Final = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Host:
    """This host and this boot of it."""

    name: str
    boot_id: str


def this_host(roots: Roots) -> Host:
    """The host by its hardware's UUID where the kernel tells it, else by its node name.

    Raises:
        ConfigurationError: the boot id cannot be read.
    """
    try:
        boot_id = read_boot_id(roots.procfs)
    except OSError as error:
        raise ConfigurationError(
            f"node.procfs: {roots.procfs}/sys/kernel/random/boot_id: {error.strerror}; mount the host's /proc there"
        ) from None
    try:
        name = (roots.sysfs / "class/dmi/id/product_uuid").read_text().strip()
    except OSError:
        name = os.uname().nodename
    return Host(name, boot_id)


class StateFile:
    """The file at `path`, for `host`.

    Raises:
        ConfigurationError: `path` names no file.
    """

    def __init__(self, path: Path, host: Host) -> None:
        if not path.name or path.is_dir():
            raise ConfigurationError(f"node.state_file: {str(path)!r} is a folder; give the path of a file, or null")
        self.path = path
        self._host = host
        self._lock: TextIO | None = None

    def lock(self) -> None:
        """Keep the file for this process until it ends, however it ends.

        Raises:
            ConfigurationError: another process has it.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self.path.with_name(self.path.name + ".lock").open("w")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.unlock()
            raise ConfigurationError(
                f"node.state_file: {self.path} is in use by another carbon-exporter; stop it or set another file"
            ) from None
        except OSError as error:
            _log.warning("%s cannot be locked: %s", self.path, error.strerror)

    def unlock(self) -> None:
        """Let another process have it."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def load(self) -> tuple[Json, bool] | None:
        """What `save` wrote, and whether it was in this boot; None where there is nothing to go on from.

        A file that is torn, of another schema or of another host is renamed to NAME.unusable and said in the log.
        """
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("%s: %s; counters start from 0", self.path, error.strerror)
            return None
        try:
            document = orjson.loads(text)
            schema, host, boot_id, body = (document[key] for key in ("schema", "host", "boot_id", "body"))
        except (ValueError, KeyError, TypeError):
            self.set_aside("is torn or no state file")
            return None
        if schema != SCHEMA:
            self.set_aside(f"has schema {schema!r}, this program writes {SCHEMA}")
            return None
        same_boot = boot_id == self._host.boot_id
        if not same_boot and host != self._host.name:
            self.set_aside("was written by another host")
            return None
        return body, same_boot

    def set_aside(self, reason: str) -> None:
        """Keep the file for a look, out of the way; counters start from 0."""
        aside = self.path.with_name(self.path.name + ".unusable")
        _log.warning("%s %s: it is set aside as %s, counters start from 0", self.path, reason, aside.name)
        try:
            self.path.replace(aside)
        except OSError as error:
            _log.warning("%s cannot be renamed: %s", self.path, error.strerror)

    def save(self, body: Json) -> None:
        """Replace the file in one step; a kill at any moment leaves the old or the new one, whole.

        It is not forced to the disk: after a power cut the baselines in it are void anyway, with the boot.

        Raises:
            OSError: the folder cannot be made or written.
        """
        document: dict[str, Any] = {
            "schema": SCHEMA,
            "host": self._host.name,
            "boot_id": self._host.boot_id,
            "body": body,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        # The standard library's json would take a quarter of a tick's CPU time for the accounts of 200 jobs.
        partial.write_bytes(orjson.dumps(document))
        partial.replace(self.path)
