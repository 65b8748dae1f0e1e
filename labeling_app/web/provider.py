"""Sign-in by an OpenID provider: authorization code flow with PKCE.

OpenID Connect Core 1.0, section 3.1; RFC 7636 (PKCE); RFC 9207 (issuer in the answer).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sqlalchemy import delete

from generator.output import InputError, read_json
from labeling_app.people.provider_accounts import AccountRules
from labeling_app.store.people_tables import ProviderAttempt
from labeling_app.store.store import ROLES, Store

SECRET = "VIDALIGN_OIDC_CLIENT_SECRET"
"""Environment variable with the secret that the provider gave to this app."""
CALLBACK = "login-callback"
ATTEMPT_SECONDS = 600.0
LEEWAY_SECONDS = 60
METADATA_SECONDS = 3600.0
TIMEOUT_SECONDS = 10.0
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures of ID tokens; neither `none` nor those by a shared secret."""
LISTS = ("domains", "leads", "annotators")
"""Settings of a provider's file that are lists of texts."""
NOT_COMPLETED = "The sign-in was not completed: begin again."
NOT_REACHED = "The sign-in service cannot be reached: try again in a moment."


class SignInFailed(InputError):
    """A sign-in that did not come back as it was begun.

    Attributes:
        reason: for the audit table.
    """

    def __init__(self, reason: str, message: str = NOT_COMPLETED) -> None:
        super().__init__(message)
        self.reason = reason[:500]


@dataclass(frozen=True)
class ProviderSettings:
    """Settings of a provider.

    Attributes:
        name: shown on the login page.
        issuer: URL of the provider, as its ID tokens name it.
        client_id: name by which the provider knows this app.
        address: of this app as browsers see it; the provider must allow `login-callback` below it.
        scope: of what the provider is asked for.
        rules: who is admitted, and as what.
    """

    name: str
    issuer: str
    client_id: str
    address: str
    scope: str = "openid email profile"
    rules: AccountRules = field(default_factory=AccountRules)


def read_provider(path: str | Path) -> Provider:
    """The provider that a JSON file describes, with the secret from the environment.

    Raises:
        InputError: the file is not as documented, the secret is not set, or Authlib is not installed.
    """
    found = read_json(path)
    known = {each.name for each in (*fields(ProviderSettings), *fields(AccountRules))} - {"rules"}
    if not isinstance(found, dict) or set(found) - known:
        unknown = ", ".join(sorted(set(found) - known)) if isinstance(found, dict) else type(found).__name__
        raise InputError(f"{path} has unknown settings ({unknown}): it may have {', '.join(sorted(known))}.")
    for key in ("name", "issuer", "client_id", "address"):
        if not isinstance(found.get(key), str) or not found[key]:
            raise InputError(f"{path} lacks {key!r}, which is a text: add it.")
    rules = {key: found[key] for key in found if key in {each.name for each in fields(AccountRules)}}
    _check(path, found, rules)
    if not os.environ.get(SECRET):
        raise InputError(f"The secret of the provider is missing: set the environment variable {SECRET}.")
    rules |= {key: tuple(rules.get(key, ())) for key in LISTS}
    settings = {key: value for key, value in found.items() if key not in rules}
    return Provider(ProviderSettings(**settings, rules=AccountRules(**rules)), os.environ[SECRET])


def _check(path: str | Path, found: Mapping[str, Any], rules: Mapping[str, Any]) -> None:
    for key in ("issuer", "address"):
        parts = urlsplit(found[key])
        is_local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        if parts.scheme != "https" and not (parts.scheme == "http" and is_local):
            raise InputError(f"{path}: {key} is {found[key]!r}: give an address that begins with https://.")
    for key in ("scope", "name_claim", "role_claim", "group_claim"):
        if key in found and not isinstance(found[key], str):
            raise InputError(f"{path}: {key} is {found[key]!r}: give a text.")
    if "openid" not in found.get("scope", "openid").split():
        raise InputError(f"{path}: the scope {found['scope']!r} lacks openid: add it.")
    for key in LISTS:
        texts = rules.get(key, [])
        if not isinstance(texts, list) or not all(isinstance(each, str) and each for each in texts):
            raise InputError(f"{path}: {key} is {texts!r}: give a list of texts.")
    if not isinstance(rules.get("anyone", False), bool):
        raise InputError(f"{path}: anyone is {rules['anyone']!r}: give true or false.")
    by_account = next((key for key in ("anyone", "leads", "annotators") if rules.get(key)), None)
    if by_account and "role_claim" in rules:
        raise InputError(
            f"{path} has {by_account} and role_claim, which both give roles: choose one of them."
        )
    for key in ("roles", "groups"):
        mapping = rules.get(key, {})
        if not isinstance(mapping, dict) or not all(isinstance(each, str) for each in mapping.values()):
            raise InputError(f"{path}: {key} is {mapping!r}: give an object of texts.")
        claim = f"{key[:-1]}_claim"
        if mapping and claim not in rules:
            raise InputError(f"{path} has {key} without {claim}: name the claim that holds their values.")
    if wrong := set(rules.get("roles", {}).values()) - set(ROLES):
        raise InputError(f"{path}: the role {min(wrong)!r} is unknown: choose one of {', '.join(ROLES)}.")


class Provider:
    """An OpenID provider, its addresses and keys, which are fetched when they are needed.

    Args:
        secret: what the provider gave to this app.

    Raises:
        InputError: Authlib is not installed.
    """

    def __init__(self, settings: ProviderSettings, secret: str) -> None:
        try:
            import authlib  # noqa: F401
            import joserfc  # noqa: F401
        except ModuleNotFoundError as error:
            raise InputError(
                f'Signing in by a provider needs {error.name}: pip install "vidalign[oidc]".'
            ) from error
        self.settings = settings
        self._secret = secret
        self._metadata: dict[str, Any] = {}
        self._fetched_at = -METADATA_SECONDS
        self._lock = threading.Lock()

    @property
    def secure(self) -> bool:
        """True where browsers reach this app over HTTPS, to which its cookies are kept then."""
        return self.settings.address.startswith("https://")

    @property
    def redirect_uri(self) -> str:
        """Address to which the provider sends browsers back."""
        return f"{self.settings.address.rstrip('/')}/{CALLBACK}"

    def begin(self, store: Store) -> tuple[str, str]:
        """Begins a sign-in: the provider's address for the browser, and the secret for the browser's cookie.

        Raises:
            SignInFailed: the provider cannot be reached.
        """
        browser, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
        state, nonce = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
        with self._client() as client:
            address = self._address("authorization_endpoint")
            url, _ = client.create_authorization_url(
                address, state=state, nonce=nonce, code_verifier=verifier
            )
        now = store.clock()
        with store.write() as session:
            session.execute(delete(ProviderAttempt).where(ProviderAttempt.expires_at <= now))
            session.add(
                ProviderAttempt(
                    browser_hash=_hash(browser),
                    state=state,
                    nonce=nonce,
                    code_verifier=verifier,
                    expires_at=now + ATTEMPT_SECONDS,
                )
            )
        return url, browser

    def finish(self, store: Store, browser: str, answer: Mapping[str, str]) -> dict[str, Any]:
        """Ends a sign-in: the verified claims of the person. An attempt can be ended once.

        Args:
            browser: secret in the browser's cookie.
            answer: parameters with which the provider sent the browser back.

        Raises:
            SignInFailed: the attempt is unknown, over or another browser's, or the provider's answer is not for it.
        """
        attempt = self._take(store, browser)
        if not hmac.compare_digest(attempt.state.encode(), answer.get("state", "").encode(errors="replace")):
            raise SignInFailed("the state is not the one that was sent")
        if answer.get("iss", self.settings.issuer) != self.settings.issuer:
            raise SignInFailed("the answer comes from another issuer")
        if "code" not in answer:
            raise SignInFailed(f"the provider refused: {answer.get('error', 'no code')}")
        token = self._exchange(answer["code"], attempt.code_verifier)
        if not isinstance(token.get("id_token"), str):
            raise SignInFailed("the provider gave no ID token")
        claims = self._verified(token["id_token"], attempt.nonce, store.clock())
        return self._with_user_info(claims, token)

    def _take(self, store: Store, browser: str) -> ProviderAttempt:
        with store.write() as session:
            attempt = session.get(ProviderAttempt, _hash(browser), with_for_update=True)
            if attempt is None or attempt.expires_at <= store.clock():
                raise SignInFailed("no sign-in was begun in this browser")
            session.delete(attempt)
            return attempt

    def _exchange(self, code: str, verifier: str) -> dict[str, Any]:
        from authlib.common.errors import AuthlibBaseError

        try:
            with self._client() as client:
                address = self._address("token_endpoint")
                return dict(client.fetch_token(address, code=code, code_verifier=verifier))
        except AuthlibBaseError as error:
            raise SignInFailed(f"the code was refused: {error}") from error
        except _fetching_errors() as error:
            raise SignInFailed(f"the token was not fetched: {error}", NOT_REACHED) from error

    def _verified(self, token: str, nonce: str, now: float) -> dict[str, Any]:
        from joserfc import errors, jwk, jwt

        wanted: dict[str, Any] = {
            "iss": {"essential": True, "value": self.settings.issuer},
            "aud": {"essential": True, "value": self.settings.client_id},
            "nonce": {"essential": True, "value": nonce},
            **{claim: {"essential": True} for claim in ("sub", "exp", "iat")},
        }
        registry = jwt.JWTClaimsRegistry(int(now), LEEWAY_SECONDS, **wanted)
        try:
            try:
                keys = jwk.KeySet.import_key_set(self._keys())
                decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            except (errors.InvalidKeyIdError, errors.BadSignatureError):
                # The provider may have changed its keys.
                keys = jwk.KeySet.import_key_set(self._keys(renew=True))
                decoded = jwt.decode(token, keys, algorithms=ALGORITHMS)
            registry.validate(decoded.claims)
        except (errors.JoseError, ValueError, KeyError, TypeError) as error:
            raise SignInFailed(f"the ID token is not valid: {error}") from error
        claims = dict(decoded.claims)
        alone = isinstance(claims["aud"], str) or len(claims["aud"]) == 1
        if claims.get("azp", self.settings.client_id if alone else None) != self.settings.client_id:
            raise SignInFailed("the ID token was made for another app")
        if not isinstance(claims["sub"], str) or not 0 < len(claims["sub"]) <= 255:
            raise SignInFailed("the subject is no text of 1 to 255 characters")
        return claims

    def _with_user_info(self, claims: dict[str, Any], token: Mapping[str, Any]) -> dict[str, Any]:
        """The claims, with those of the provider's `userinfo` where the rules need one that the ID token lacks."""
        rules = self.settings.rules
        needed = {rules.name_claim, rules.role_claim, rules.group_claim} - {None}
        needed |= {"email", "email_verified"} if rules.domains or rules.name_claim == "email" else set()
        if needed <= set(claims) or "userinfo_endpoint" not in self._discovered():
            return claims
        try:
            with self._client(token) as client:
                answer = client.get(self._address("userinfo_endpoint"))
                found = dict(answer.raise_for_status().json())
        except _fetching_errors() as error:
            raise SignInFailed(f"the user information was not fetched: {error}", NOT_REACHED) from error
        if found.get("sub") != claims["sub"]:
            raise SignInFailed("the user information is about somebody else")
        return {**found, **claims}

    def _client(self, token: Mapping[str, Any] | None = None) -> Any:
        from authlib.integrations.httpx_client import OAuth2Client

        methods = self._discovered().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        basic = "client_secret_basic" in methods
        return OAuth2Client(
            self.settings.client_id,
            self._secret,
            scope=self.settings.scope,
            redirect_uri=self.redirect_uri,
            token_endpoint_auth_method="client_secret_basic" if basic else "client_secret_post",
            code_challenge_method="S256",
            token=token,
            timeout=TIMEOUT_SECONDS,
        )

    def _discovered(self) -> dict[str, Any]:
        """The provider's description of itself (OpenID Connect Discovery 1.0, section 4)."""
        with self._lock:
            if time.monotonic() - self._fetched_at >= METADATA_SECONDS:
                issuer = self.settings.issuer
                found = _fetched(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
                if found.get("issuer") != issuer:
                    raise SignInFailed(f"the provider calls itself {found.get('issuer')!r}", NOT_REACHED)
                self._metadata, self._fetched_at = {"described": found}, time.monotonic()
            return dict(self._metadata["described"])

    def _address(self, name: str) -> str:
        address = self._discovered().get(name)
        if not isinstance(address, str):
            raise SignInFailed(f"the provider has no {name}", NOT_REACHED)
        return address

    def _keys(self, renew: bool = False) -> Any:
        address = self._address("jwks_uri")
        if renew or "keys" not in self._metadata:
            self._metadata["keys"] = _fetched(address)
        return self._metadata["keys"]


def _fetched(address: str) -> dict[str, Any]:
    import httpx

    try:
        return dict(httpx.get(address, timeout=TIMEOUT_SECONDS).raise_for_status().json())
    except _fetching_errors() as error:
        raise SignInFailed(f"{address} was not fetched: {error}", NOT_REACHED) from error


def _fetching_errors() -> tuple[type[Exception], ...]:
    """Errors of a connection, of an answer with another status, and of one that is no JSON object."""
    import httpx

    return httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError


def _hash(browser: str) -> str:
    return hashlib.sha256(browser.encode(errors="replace")).hexdigest()
