"""What an Envoy has counted, from its admin interface."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Final
from urllib.parse import quote

from vestibule.errors import VestibuleError
from vestibule.proxy.admin import Admin
from vestibule.proxy.codes import ENVOY_ADMIN
from vestibule.records import ProxyTraffic, Requests

_INBOUND: Final = frozenset({"ingress"})
_ASKED: Final = (
    r"^http\.(ingress|egress|gateway)\.(downstream_rq_(completed|4xx|5xx)|fault\.aborts_injected)$"
)
_HTTP: Final = re.compile(r"http\.([a-z]+)\.(.*)")
TARGET: Final = f"/stats?format=json&usedonly&filter={quote(_ASKED)}"


async def traffic_of(admin: Admin) -> ProxyTraffic:
    """What was counted since the Envoy started.  Raises: VST7103."""
    answer = await admin.get(TARGET)
    try:
        return parse(answer.body)
    except (ValueError, KeyError, TypeError) as error:
        raise ENVOY_ADMIN.error("Envoy's statistics cannot be read") from error


async def traffic_or_none(admin: Admin) -> ProxyTraffic | None:
    """The same; None while Envoy does not answer."""
    try:
        return await traffic_of(admin)
    except VestibuleError:
        return None


def parse(body: bytes) -> ProxyTraffic:
    """Envoy's answer.  Raises: ValueError, KeyError, TypeError."""
    counts: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for stat in json.loads(body)["stats"]:
        if "value" not in stat:
            continue
        if named := _HTTP.fullmatch(stat["name"]):
            counts[named[1] in _INBOUND][named[2]] += int(stat["value"])
    return ProxyTraffic(inbound=_requests(counts[True]), outbound=_requests(counts[False]))


def _requests(counts: Counter[str]) -> Requests:
    return Requests(
        requests=counts["downstream_rq_completed"],
        denied=counts["downstream_rq_4xx"],
        failed=counts["downstream_rq_5xx"],
        aborted=counts["fault.aborts_injected"],
    )
