"""What all tests share: real servers are skipped with a reason where they are missing, or fail when required."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def need() -> Callable[[str], str]:
    """need("prometheus") gives the program's path; where it is missing the test is skipped, or fails if
    CARBON_REQUIRE_REAL=1."""

    def find(program: str) -> str:
        path = shutil.which(program)
        if path is not None:
            return path
        reason = f"{program} is not on the PATH: apt-get install {program}"
        if os.environ.get("CARBON_REQUIRE_REAL") == "1":
            pytest.fail(reason)
        pytest.skip(reason)

    return find


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY
