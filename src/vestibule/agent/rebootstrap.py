"""When the trust bundle that the agent has does not lead to the server any more, and the first trust counts again.

A bundle goes stale where the agent, or the server, was away for longer than the authorities in it last, and where the
server began anew.  An impostor looks the same.  What tells them apart is the operator's word, given as it was for the
first start: the bundle in a file, or its hash.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from enum import Enum
from typing import Final

from vestibule.agent.bootstrap import FirstTrust

REBOOTSTRAP_DELAY: Final = timedelta(minutes=10)
_log = logging.getLogger(__name__)


class Rebootstrap(str, Enum):  # noqa: UP042 - typer shows the values of str enums
    """``never``: the last bundle, or nothing.  ``auto``: once the agent's SVID has expired, a bundle file or hash is
    asked again.  ``always``: whatever the first trust was, also "believe anyone", also while the SVID is valid.
    """

    NEVER = "never"
    AUTO = "auto"
    ALWAYS = "always"


class Rebootstrapping:
    """Decides; counts for how long the server was not the one that the bundle leads to."""

    def __init__(self, mode: Rebootstrap, delay: timedelta, first_trust: FirstTrust) -> None:
        self._mode = mode
        self._delay = delay
        self._first_trust = first_trust
        self._since: datetime | None = None

    def trusted(self) -> None:
        """The server proved itself, or was just given a new chance to."""
        self._since = None

    def distrusted(self, now: datetime, *, spent: bool) -> bool:
        """The server could not prove itself; whether to ask the first trust again.  ``spent``: our SVID is over."""
        if self._since is None or now < self._since:
            self._since = now
        if now - self._since < self._delay:
            return False
        if self._mode is Rebootstrap.ALWAYS:
            allowed = self._first_trust.is_given
        else:
            # With a valid SVID in hand there is something to lose, and "believe anyone" was said once.
            allowed = self._mode is Rebootstrap.AUTO and spent and self._first_trust.is_firm
        if allowed:
            _log.warning(
                "the server is not the one that we knew, since %s: asking the first trust again", self._since
            )
        return allowed
