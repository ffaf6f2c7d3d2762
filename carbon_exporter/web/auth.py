"""Basic authentication (RFC 7617) in front of an ASGI application, with bcrypt hashes as `htpasswd -B` makes them."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from typing import Final

import bcrypt
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MOST_CHECKS: Final = 10
"""So many passwords may wait to be checked; more are turned away with 503."""
BCRYPT_BYTES: Final = 72
"""bcrypt reads no more of a password; the library refuses a longer one instead of cutting it."""


class BasicAuth:
    """Asks for a user's password on every path; `users` maps names to bcrypt hashes and is not empty.

    bcrypt takes tenths of a second. So it runs in a thread, one check at a time, and a password once found right is
    remembered as a keyed hash: a known scraper costs microseconds and never waits for somebody's guesses.
    """

    def __init__(self, app: ASGIApp, users: Mapping[str, str]) -> None:
        self._app = app
        self._hashes = {name.encode(): bcrypt_hash.encode() for name, bcrypt_hash in users.items()}
        # An unknown user is checked against this, to take as long as a known one; the cost is in "$2b$12$...".
        self._decoy = max(self._hashes.values(), key=lambda bcrypt_hash: bcrypt_hash.split(b"$")[2])
        self._key = secrets.token_bytes(32)
        self._seen: dict[bytes, bytes] = {}
        self._checks = 0
        self._one_check = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request: pass it on, or 401, or 503 where too many passwords wait."""
        credentials = _credentials(scope)
        if credentials is not None and self._is_known(*credentials):
            await self._app(scope, receive, send)
        elif credentials is not None and self._checks >= MOST_CHECKS:
            await PlainTextResponse("Too many passwords to check: try again.\n", 503, {"Retry-After": "1"})(
                scope, receive, send
            )
        elif credentials is not None and await self._is_right(*credentials):
            await self._app(scope, receive, send)
        else:
            challenge = {"WWW-Authenticate": 'Basic realm="carbon-exporter", charset="UTF-8"'}
            await PlainTextResponse("Unauthorized\n", 401, challenge)(scope, receive, send)

    def _fingerprint(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key).digest()

    def _is_known(self, user: bytes, password: bytes) -> bool:
        return hmac.compare_digest(self._seen.get(user, b""), self._fingerprint(password))

    async def _is_right(self, user: bytes, password: bytes) -> bool:
        self._checks += 1
        try:
            async with self._one_check:
                right = await asyncio.to_thread(_matches, password, self._hashes.get(user, self._decoy))
        finally:
            self._checks -= 1
        if right and user in self._hashes:
            self._seen[user] = self._fingerprint(password)
            return True
        return False


def _credentials(scope: Scope) -> tuple[bytes, bytes] | None:
    """User and password of the request; None where there are none that can be read."""
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    scheme, _, encoded = header.partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (user, password[:BCRYPT_BYTES]) if colon else None


def _matches(password: bytes, bcrypt_hash: bytes) -> bool:
    try:
        return bcrypt.checkpw(password, bcrypt_hash)
    except ValueError:  # a NUL byte in the password, for some versions of the library
        return False
