"""What the forecast service and those who ask it agree on: where it answers, and where its password stands."""

from typing import Final

INTENSITY_PATH: Final = "/api/v1/intensity"
ADVICE_PATH: Final = "/api/v1/advice"
PASSWORD_VARIABLE: Final = "CARBON_INTENSITY_PASSWORD"  # noqa: S105 - the name of a variable, not a password
