"""What people ask for: the intent language, from text to a checked model, with the place of every problem."""

from vestibule.intent.model import (
    App,
    Defaults,
    DenyDetail,
    Intent,
    Mesh,
    Port,
    Protocol,
    Service,
    UpFile,
)

__all__ = [
    "App",
    "Defaults",
    "DenyDetail",
    "Intent",
    "Mesh",
    "Port",
    "Protocol",
    "Service",
    "UpFile",
]
