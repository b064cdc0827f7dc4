"""Repositories made by the real git, for a test: with a work tree, with signatures, with evil in them."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

MESH = "mesh: shop\ntrust_domain: example.org\nenvironment: prod\n"
WEB = "service: web\nports: {http: {protocol: http}}\nallow: []\n"
BROKEN = "service: web\nports: {http: {protocl: http}}\nallow: []\n"


class Repository:
    """A repository with a work tree, on the branch main."""

    def __init__(self, path: Path, *options: str) -> None:
        self.path = path
        self._options: list[str] = []
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main", *options)

    def git(self, *arguments: str, stdin: bytes | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", str(self.path), *self._options, *arguments],
            input=stdin,
            check=True,
            capture_output=True,
            env=environment(),
        )
        return done.stdout.decode().strip()

    def sign_with(self, key: Path, kind: str = "ssh") -> None:
        """Every later commit is signed."""
        self._options = [
            *("-c", f"gpg.format={kind}", "-c", f"user.signingkey={key}", "-c", "commit.gpgsign=true")
        ]

    def do_not_sign(self) -> None:
        self._options = []

    def commit(self, files: Mapping[str, str] | None = None, subject: str = "a change") -> str:
        """Write files, commit all, and return the commit."""
        for name, text in (files or {}).items():
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", subject)
        return self.head

    def commit_tree(self, entries: str, subject: str = "by hand") -> str:
        """A commit of a tree that no work tree could hold; ``entries`` as of ``git mktree``."""
        tree = self.git("mktree", "--missing", stdin=entries.encode())
        commit = self.git("commit-tree", tree, "-p", "HEAD", "-m", subject)
        self.git("update-ref", "refs/heads/main", commit)
        return commit

    def blob(self, content: bytes) -> str:
        return self.git("hash-object", "-w", "--stdin", stdin=content)

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")


def environment() -> dict[str, str]:
    """Ann's, and nothing of the user who runs the tests."""
    who = {"NAME": "Ann", "EMAIL": "ann@example.org"}
    people = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **people, **quiet}


def intent_repository(path: Path) -> Repository:
    """With one commit: a mesh of one service."""
    repository = Repository(path)
    repository.commit({"mesh.yaml": MESH, "services/web.yaml": WEB}, "the first")
    return repository


def needs(*programs: str) -> None:
    """Skip where a program is missing; in CI, where `.ci/run` installs it, that is a failure."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def ssh_key(directory: Path, name: str) -> Path:
    """A private key, with its public half beside it."""
    needs("ssh-keygen")
    key = directory / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(key)], check=True, timeout=20
    )
    return key
