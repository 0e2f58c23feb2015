"""Tokens: what Globus Auth gives services for their credentials, and persons for a code that their browser was shown.

Promises: a token is good for the scopes that were asked for, until it is expired. Leaves to who plays the person what a
browser does: one GET of the address that the SDK prints, which is answered with the code to type.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from proxyfab.testing.globus.tasks import Document

ALL = "urn:globus:auth:scope:transfer.api.globus.org:all"
_PERSON = "00000000-0000-4000-8000-000000000007"


class Refusal(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, code: str, **more: object) -> None:
        super().__init__(code)
        self.status = status
        self.body = {"code": code, "message": f"{code} (test server)", "request_id": "test"} | more


class Grants:
    """All that were given out. `url` is where the server is."""

    def __init__(self, url: str) -> None:
        self.scopes: dict[str, str] = {}
        """By access token."""
        self._url = url
        self._codes: dict[str, str] = {}
        self._refreshing: dict[str, str] = {}
        self._key: Any = None

    def expire(self) -> None:
        """Every access token counts no more."""
        self.scopes.clear()

    def authorize(self, query: dict[str, str]) -> Document:
        """What the browser of a person shows who has agreed."""
        code = secrets.token_hex(8)
        self._codes[code] = query["scope"]
        return {"code": code}

    def grant(self, form: dict[str, str]) -> Document:
        """Tokens, one for each service whose scopes are asked for."""
        kind = form.get("grant_type", "client_credentials")
        if kind == "authorization_code":
            scope = self._codes.pop(form.get("code", ""), "")
        elif kind == "refresh_token":
            scope = self._refreshing.get(form.get("refresh_token", ""), "")
        else:
            scope = form.get("scope", ALL)
        services = {"transfer.api.globus.org": ALL in scope, "auth.globus.org": "openid" in scope}
        each = [self._token(name, scope, kind) for name, wanted in services.items() if wanted]
        if not each:
            raise Refusal(400, "invalid_grant")
        answer = each[0] | {"other_tokens": each[1:]}
        if kind == "authorization_code" and services["auth.globus.org"]:
            answer["id_token"] = self._identity(form.get("client_id", ""))
        return answer

    def _token(self, service: str, scope: str, kind: str) -> Document:
        token = secrets.token_hex(8)
        self.scopes[token] = scope
        mine = scope.replace("openid", "") if service.startswith("transfer") else "openid"
        made = {"access_token": token, "expires_in": 172800, "token_type": "Bearer", "resource_server": service}
        if kind != "client_credentials":
            made["refresh_token"] = refresh = secrets.token_hex(8)
            self._refreshing[refresh] = mine
        return made | {"scope": " ".join(each for each in (ALL, "openid") if each in mine)}

    # -- who somebody is ---------------------------------------------------------------------------------------------

    def configuration(self) -> Document:
        """OpenID's description of this server."""
        return {
            "issuer": self._url,
            "jwks_uri": f"{self._url}jwk.json",
            "id_token_signing_alg_values_supported": ["RS256"],
        }

    def keys(self) -> Document:
        """What its signatures are checked with."""
        from jwt.algorithms import RSAAlgorithm

        return {"keys": [json.loads(RSAAlgorithm.to_jwk(self._signing().public_key()))]}

    def _identity(self, audience: str) -> str:
        import jwt

        now = int(time.time())
        claims = {"iss": self._url, "aud": audience, "sub": _PERSON, "iat": now, "exp": now + 3600}
        token: str = jwt.encode(claims, self._signing(), algorithm="RS256")
        return token

    def _signing(self) -> Any:
        from cryptography.hazmat.primitives.asymmetric import rsa

        if self._key is None:
            self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return self._key
