"""What ``vestibule revoke`` prints: what is cut off, and how soon for each kind of client."""

from __future__ import annotations

from typing import Any

from rich.markup import escape

from vestibule.cli.output import console
from vestibule.cli.server_calls import instant

SHOWN = 20


def entry_document(entry: Any) -> dict[str, Any]:
    """A revocation as the envelope carries it."""
    return {
        "kind": entry.kind,
        "name": entry.name,
        "issued_before": instant(entry.issued_before),
        "revoked_at": instant(entry.at),
        "reason": entry.reason,
        "note": entry.note or None,
        "actor": entry.actor,
        "expires_at": instant(entry.expires_at),
        "version": entry.version or None,
    }


def impact_document(impact: Any) -> dict[str, Any]:
    """The drill's findings as the envelope carries them."""
    return {
        "certificates": impact.certificates,
        "until": instant(impact.until),
        "identities": [
            {"spiffe_id": each.spiffe_id, "certificates": each.certificates, "until": instant(each.until)}
            for each in impact.identities
        ],
        "identities_left_out": impact.identities_left_out,
        "agents": [
            {"spiffe_id": each.spiffe_id, "connected": each.connected, "banned": each.banned}
            for each in impact.agents
        ],
        "proxies": [
            {"instance_id": each.instance_id, "service": each.service, "agent_id": each.agent_id}
            for each in impact.proxies
        ],
        "clients": [
            {"kind": each.kind, "how_soon": each.how_soon, "how": each.how} for each in impact.clients
        ],
        "offline_root": impact.offline_root,
        "warnings": list(impact.warnings),
    }


def show_entries(entries: list[dict[str, Any]]) -> None:
    """One paragraph for each revocation."""
    for entry in entries:
        _line(f"{entry['kind']} {entry['name']}")
        scope = f", issued before {entry['issued_before']}" if entry["issued_before"] else ""
        _line(f"  revoked at {entry['revoked_at']} by {entry['actor']}: {entry['reason']}{scope}")
        if entry["note"]:
            _line(f"  {entry['note']}")
        _line(f"  kept until {entry['expires_at'] or 'it is lifted'}")
    _line(f"Found {len(entries)} {'revocation' if len(entries) == 1 else 'revocations'}")


def show_report(data: dict[str, Any]) -> None:
    """What was done, or would be."""
    impact = data["impact"]
    console.print("Dry run: nothing was changed." if data["dry_run"] else "Revoked.")
    for entry in data["revocations"]:
        scope = f", issued before {entry['issued_before']}" if entry["issued_before"] else ""
        _line(f"  {entry['kind']} {entry['name']}{scope}")
    until = f", the last until {impact['until']}" if impact["until"] else ""
    _line(f"Valid certificates cut off, on record here: {impact['certificates']}{until}")
    _some("identities", [f"{e['spiffe_id']} ({e['certificates']})" for e in impact["identities"]])
    _some("agents", [_agent(each) for each in impact["agents"]])
    _some("proxies", [f"{e['service']} {e['instance_id']} under {e['agent_id']}" for e in impact["proxies"]])
    console.print("Who refuses it, and how soon:")
    for client in impact["clients"]:
        _line(f"  {client['kind']}: {client['how_soon']}")
        _line(f"    {client['how']}")
    _line(f"Needed of the offline root: {impact['offline_root']}")
    for warning in impact["warnings"]:
        _line(f"Note: {warning}")


def _agent(each: dict[str, Any]) -> str:
    state = "connected" if each["connected"] else "not connected"
    return f"{each['spiffe_id']} ({state}{', banned' if each['banned'] else ''})"


def _some(title: str, lines: list[str]) -> None:
    if not lines:
        return
    _line(f"  {title}: {len(lines)}")
    for line in lines[:SHOWN]:
        _line(f"    {line}")
    if len(lines) > SHOWN:
        _line("    … (all of them with --output json)")


def _line(text: str) -> None:
    console.print(escape(text))
