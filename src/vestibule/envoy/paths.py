"""What another path takes the place of: a pattern's literal part, or the whole of an exact path."""

from __future__ import annotations

import re

from envoy.config.route.v3 import route_components_pb2
from envoy.type.matcher.v3 import regex_pb2

from vestibule.envoy.matches import regex
from vestibule.policy import PathPattern


def rewrite(
    action: route_components_pb2.RouteAction | route_components_pb2.RedirectAction,
    pattern: PathPattern | None,
    path: str,
) -> None:
    """Let a route lead to ``path`` in place of what its pattern says literally."""
    if pattern is not None and pattern.is_literal and not pattern.below:
        if isinstance(action, route_components_pb2.RedirectAction):
            action.path_redirect = path
        else:
            action.prefix_rewrite = path
        return
    action.regex_rewrite.CopyFrom(_beginning(pattern.literal if pattern is not None else "", path))


def _beginning(literal: str, path: str) -> regex_pb2.RegexMatchAndSubstitute:
    """``/v1`` → ``/v2``; to and from ``/`` as well, where a plain replacement would double or lose the slash."""
    path = path.rstrip("/")
    slash = "" if path else "/?"
    return regex_pb2.RegexMatchAndSubstitute(
        pattern=regex(f"^{re.escape(literal)}{slash}"), substitution=path or "/"
    )
