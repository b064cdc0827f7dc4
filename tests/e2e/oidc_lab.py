"""A small OpenID provider in a process of its own, and people who log in there (OpenID Connect Core, section 3.1)."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qs, urlsplit

import httpx
from tests.e2e.front_door import ENVIRONMENT, PATIENCE, until
from tests.ports import free_port

REDIRECT: Final = "http://127.0.0.1:9/logged-in"


@dataclass
class Provider:
    """``with`` it, and ``wait`` until it answers.  Each start makes another signing key."""

    directory: Path
    users: dict[str, dict[str, Any]]
    port: int = field(default_factory=free_port)
    _process: subprocess.Popen[bytes] | None = None

    @property
    def issuer(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def keys(self) -> str:
        return f"{self.issuer}/jwks"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        users = [word for sub, each in self.users.items() for word in _user(sub, each)]
        words = [sys.executable, "-m", "oidc_provider_mock", "--port", str(self.port), *users]
        with (self.directory / "provider.log").open("ab") as log:
            self._process = subprocess.Popen(words, env=ENVIRONMENT, stdout=log, stderr=log)

    def wait(self) -> None:
        until(self._answers, self._said, PATIENCE * 2)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def login(self, sub: str, application: str) -> str:
        """The ID token that an application gets for a person who logs in: by an authorization code."""
        asked = {
            "response_type": "code",
            "client_id": application,
            "redirect_uri": REDIRECT,
            "scope": "openid email",
            "state": "a-state",
            "nonce": "a-nonce",
        }
        with httpx.Client(base_url=self.issuer, trust_env=False, timeout=PATIENCE) as browser:
            consent = browser.post("/oauth2/authorize", params=asked, data={"sub": sub})
            back = parse_qs(urlsplit(consent.headers["location"]).query)
            assert back["state"] == ["a-state"]
            form = {
                "grant_type": "authorization_code",
                "code": back["code"][0],
                "redirect_uri": REDIRECT,
                "client_id": application,
                "client_secret": "of the application",
            }
            answer = browser.post("/oauth2/token", data=form)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id_token"])

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._said()
        try:
            return httpx.get(self.keys, trust_env=False, timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def _said(self) -> str:
        return (self.directory / "provider.log").read_text()[-4000:]


def _user(sub: str, claims: dict[str, Any]) -> tuple[str, str]:
    return "--user-claims", json.dumps({"sub": sub, **claims})
