"""What an Envoy sees of the environment: nothing but where the time zones are."""

from __future__ import annotations

import os

from vestibule.clock import time_zones


def envoy_environment() -> dict[str, str]:
    """The whole of it."""
    zones = time_zones()
    return {"PATH": os.defpath} if zones is None else {"PATH": os.defpath, "TZDIR": str(zones)}
