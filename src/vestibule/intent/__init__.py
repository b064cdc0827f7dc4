"""What people ask for: the intent language, from text to a checked model, with the place of every problem."""

from vestibule.intent.environments import environments_of
from vestibule.intent.expiry import expired
from vestibule.intent.loading import Loaded, LoadedUp, load, load_files, load_tree, load_up
from vestibule.intent.model import (
    App,
    Defaults,
    DenyDetail,
    Intent,
    Mesh,
    Port,
    Protocol,
    Rollout,
    Service,
    UpFile,
)
from vestibule.intent.problems import Problem, Severity

__all__ = [
    "App",
    "Defaults",
    "DenyDetail",
    "Intent",
    "Loaded",
    "LoadedUp",
    "Mesh",
    "Port",
    "Problem",
    "Protocol",
    "Rollout",
    "Service",
    "Severity",
    "UpFile",
    "environments_of",
    "expired",
    "load",
    "load_files",
    "load_tree",
    "load_up",
]
