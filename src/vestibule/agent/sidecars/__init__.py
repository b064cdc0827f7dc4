"""Sidecars attached to this agent, and what they are entitled to say of their processes and instances."""

from vestibule.agent.sidecars.health import AppHealth, Checks, Target, Verdict
from vestibule.agent.sidecars.sessions import (
    Attachment,
    Done,
    Event,
    Grants,
    MeshUpstream,
    Process,
    Session,
    Sidecars,
    Taken,
    Uses,
    Welcomed,
)
from vestibule.agent.sidecars.views import ViewCache

__all__ = [
    "AppHealth",
    "Attachment",
    "Checks",
    "Done",
    "Event",
    "Grants",
    "MeshUpstream",
    "Process",
    "Session",
    "Sidecars",
    "Taken",
    "Target",
    "Uses",
    "Verdict",
    "ViewCache",
    "Welcomed",
]
