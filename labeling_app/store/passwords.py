"""Hashes of passwords, by scrypt."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from generator.output import InputError

SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL = 2**14, 8, 1
MINIMUM_PASSWORD_LENGTH = 8
MAXIMUM_PASSWORD_LENGTH = 1024


def hash_password(password: str, salt: bytes | None = None) -> str:
    """`scrypt$cost$block$parallel$salt$hash` of a password, with a fresh salt unless one is given."""
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(
        password.encode(), salt=salt, n=SCRYPT_COST, r=SCRYPT_BLOCK, p=SCRYPT_PARALLEL, dklen=32
    )
    return f"scrypt${SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_PARALLEL}${salt.hex()}${digest.hex()}"


def verify_password(password: str, password_hash: str) -> bool:
    """Returns whether the password has this hash. Takes as long for a user without a password as for one with."""
    known = password_hash.startswith("scrypt$")
    stored = password_hash if known else _UNKNOWN
    _, cost, block, parallel, salt, digest = stored.split("$")
    given = hashlib.scrypt(
        password[:MAXIMUM_PASSWORD_LENGTH].encode(errors="replace"),
        salt=bytes.fromhex(salt),
        n=int(cost),
        r=int(block),
        p=int(parallel),
        dklen=len(digest) // 2,
    )
    return hmac.compare_digest(given, bytes.fromhex(digest)) and known


_UNKNOWN = f"scrypt${SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_PARALLEL}${'00' * 16}${'00' * 32}"


def checked_hash(password: str) -> str:
    """The hash of a new password.

    Raises:
        InputError: the password is too short or too long.
    """
    if not MINIMUM_PASSWORD_LENGTH <= len(password) <= MAXIMUM_PASSWORD_LENGTH:
        raise InputError(
            f"The password has {len(password)} characters: give {MINIMUM_PASSWORD_LENGTH} to "
            f"{MAXIMUM_PASSWORD_LENGTH}."
        )
    return hash_password(password)
