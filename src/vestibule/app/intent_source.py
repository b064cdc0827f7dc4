"""Where the settings say that the intent is: a directory, or a Git repository that may also call."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Final

from vestibule.app.codes import INVALID_SETTING
from vestibule.app.git_settings import ForcePush, GitIntent
from vestibule.app.server_settings import ServerSettings
from vestibule.calls.git import Mirror
from vestibule.clock import Clock
from vestibule.doors.git_webhook import GitWebhook
from vestibule.intent import load, load_tree
from vestibule.keys.secrets import Secret, secret_in_file
from vestibule.mesh import DirectorySource, Following, GitSource, Source

MIRROR: Final = "intent-git"


def source_of(settings: ServerSettings, clock: Clock) -> tuple[Source | None, GitWebhook | None]:
    """The source, and who tells it that there is something new.

    Raises: VST9110 and VST1105 where a file is missing or open to others.
    """
    place = settings.intent
    if place is None:
        return None, None
    if isinstance(place, Path):
        return DirectorySource(place, clock, read=partial(load, environment=settings.environment)), None
    assert place.git is not None
    _check(place.git, settings)
    source = _git_source(place.git, settings, clock)
    return source, _webhook(place.git, source)


def _git_source(git: GitIntent, settings: ServerSettings, clock: Clock) -> GitSource:
    mirror = Mirror(
        settings.data_dir / MIRROR, git.place, git.access, max_size=git.max_size, environment=os.environ
    )
    following = Following(
        ref=git.parsed_ref,
        folder=git.folder,
        poll=git.poll,
        rewrites=git.force_push is ForcePush.FOLLOW,
    )
    return GitSource(mirror, following, clock, read=partial(load_tree, environment=settings.environment))


def _webhook(git: GitIntent, source: GitSource) -> GitWebhook | None:
    if (file := git.webhook_secret) is None:
        return None

    def secret() -> Secret:
        return secret_in_file(file)

    return GitWebhook(secret, source.look_now)


def _check(git: GitIntent, settings: ServerSettings) -> None:
    """A mistake is told at the start, not at the first commit."""
    if git.webhook_secret is not None and settings.health_port is None:
        raise INVALID_SETTING.error("webhook_secret of intent needs health_port: webhooks come in there")
    for secret in (git.webhook_secret, git.credentials):
        if secret is not None:
            secret_in_file(secret)
    for name in ("allowed_signers", "allowed_keys", "ssh_key", "known_hosts", "ca"):
        file = getattr(git, name)
        if file is not None and not file.is_file():
            raise INVALID_SETTING.error(f"{name} of intent: there is no file {file}")
