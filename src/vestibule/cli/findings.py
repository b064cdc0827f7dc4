"""What ``vestibule check`` looks at, as pure judgements: facts and the time in, findings out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from vestibule.cli.status import SYNCED, countdown, short_name
from vestibule.records import BREAK_GLASS

if TYPE_CHECKING:
    from vestibule.processes.listening import TcpListener
    from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2, secrets_pb2

RENEWAL_GRACE: Final = 60.0
"""Seconds that a renewal may be late before somebody should look: retries take their time."""
TRUST_HINT: Final = (
    "Development only: every process of this machine can speak in the service's name through its proxy's local ports. "
    "On a shared machine start the sidecar under a user of its own with --boundary unix, or guard or netns as root."
)
BOUNDARIES: Final = {
    "unix": "sockets that only their own user can open",
    "guard": "loopback ports behind packet filters that know users",
    "netns": "a network namespace of their own, entered through the proxy only",
}


class Level(Enum):
    """How good a finding is."""

    FINE = "fine"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.  ``hint`` says what to do; only a fine finding may leave it empty."""

    id: str
    level: Level
    message: str
    hint: str = ""


def fine(id_: str, message: str) -> Finding:
    return Finding(id=id_, level=Level.FINE, message=message)


def warning(id_: str, message: str, hint: str) -> Finding:
    return Finding(id=id_, level=Level.WARNING, message=message, hint=hint)


def failed(id_: str, message: str, hint: str) -> Finding:
    return Finding(id=id_, level=Level.FAILED, message=message, hint=hint)


def authorities(status: admin_pb2.ServerStatus, now: float) -> Iterator[Finding]:
    """There is an authority that signs now, and its successor comes in time."""
    active = [each for each in status.authorities if each.state == "active"]
    if not active:
        yield failed(
            "ca-valid",
            "no authority is active, so no SVID is issued",
            "Read the server's log; it makes a new authority at its next start.",
        )
        return
    newest = max(active, key=lambda each: each.not_after)
    left, life = newest.not_after - now, newest.not_after - newest.not_before
    if now < newest.not_before:
        yield failed(
            "ca-valid", "the authority is not valid yet", "Set the clock of the server's machine right."
        )
    elif left <= 0:
        yield failed(
            "ca-valid",
            "the authority has expired",
            "Restart the server; it makes a new authority. Read its log for why.",
        )
    elif left < life / 6 - RENEWAL_GRACE:
        yield warning(
            "ca-valid",
            f"the authority expires in {countdown(left)} and has no active successor",
            "The server should have activated the next one by now; read its log.",
        )
    else:
        yield fine("ca-valid", f"the authority is valid for {countdown(left)}")
    for each in status.warnings:
        advice = "Ceremonies (vestibule ca request --server): docs/ca.md; servers above: docs/nested.md."
        if each.startswith(BREAK_GLASS):
            advice = "End it when it is not needed any more: vestibule break-glass close ID."
        yield warning("server-warning", each, advice)


def entries(warnings: Sequence[str], left_out: int) -> Iterator[Finding]:
    """No two entries make the default identity of a workload a matter of chance."""
    if not warnings:
        yield fine("entries-clear", "no entries make a workload's default identity ambiguous")
        return
    more = len(warnings) - 1 + left_out
    yield warning(
        "entries-clear",
        warnings[0] + (f" (and {more} more such)" if more else ""),
        "Let the entries' selectors exclude each other, or give them hints and let the workload choose by hint.",
    )


def intent(status: admin_pb2.ServerStatus) -> Iterator[Finding]:
    """The intent files are valid as they are now."""
    problems = [each for each in status.intent.problems if each.severity != "warning"]
    if problems:
        first = problems[0]
        # A repository's problems are those of a commit; a directory may be looked at as it is now.
        from_git = status.intent.head or first.code.startswith("VST32")
        see = "vestibule status" if from_git else f"vestibule validate {status.intent.directory}"
        yield failed(
            "intent-valid",
            f"{len(problems)} problem(s) with the intent, version {status.intent.version} stays in force; "
            f"first: {first.where}: {first.code} {first.message}",
            f"{first.advice} See all: {see}",
        )
    elif not status.intent.version:
        yield warning(
            "intent-valid",
            "no intent is loaded, so there is no mesh",
            "Start the server with an intent directory.",
        )
    else:
        yield fine("intent-valid", f"intent {status.intent.version} is valid and in force")


def secrets(seal: secrets_pb2.SealStatus | None) -> Iterator[Finding]:
    """The secret manager, if there is one, has its keys, and its rows are those that it wrote."""
    if seal is None:
        yield fine("secrets-unsealed", "this server has no secret manager")
        return
    if not seal.initialised:
        yield failed(
            "secrets-unsealed",
            f"the secret manager has no keys yet (seal: {seal.kind})",
            "vestibule secret init",
        )
    elif seal.sealed:
        yield _sealed(seal)
    else:
        yield fine("secrets-unsealed", f"the secret manager is unsealed (seal: {seal.kind})")
    if seal.damaged:
        yield failed(
            "secrets-whole",
            f"rows of the secret manager are missing, too many or not the newest: {', '.join(seal.damaged)}",
            "Somebody changed the database: vestibule audit list --action secrets.tampering; docs/secrets-seals.md.",
        )


def _sealed(seal: secrets_pb2.SealStatus) -> Finding:
    shares = f", {seal.progress} of {seal.threshold} shares given" if seal.threshold else ""
    why = f": {seal.problem}" if seal.problem else ""
    message = f"the secret manager is sealed, and nobody gets a secret (seal: {seal.kind}{shares}){why}"
    if seal.threshold:
        return failed("secrets-unsealed", message, "Who has a share gives it here: vestibule secret unseal")
    return failed("secrets-unsealed", message, "Mend what is in the way; then: vestibule secret unseal")


def proxies(status: admin_pb2.ServerStatus) -> Iterator[Finding]:
    """Every registered proxy is connected and has what it should have."""
    if not status.proxies:
        yield warning(
            "proxies-in-sync", "no proxy is registered", "Start one: vestibule sidecar --service NAME -- CMD"
        )
        return
    away = [each.instance_id for each in status.proxies if not each.connected]
    refused = [
        f"{each.instance_id} refused {short_name(sync.type_url)}: {sync.error}"
        for each in status.proxies
        for sync in each.types
        if sync.error
    ]
    behind = [
        f"{each.instance_id} {short_name(sync.type_url)}"
        for each in status.proxies
        for sync in each.types
        if each.connected and sync.status != SYNCED and not sync.error
    ]
    if away:
        yield failed(
            "proxies-connected",
            f"not connected: {', '.join(away)}",
            "Their agents do not relay for them now: check the agents, and the sidecars' logs.",
        )
    else:
        yield fine("proxies-connected", f"{_count(len(status.proxies), 'proxy', 'proxies')} connected")
    if refused:
        yield failed(
            "proxies-in-sync",
            "; ".join(refused),
            "The last accepted configuration stays in force. Report this; it is a bug.",
        )
    elif behind:
        yield warning(
            "proxies-in-sync",
            f"not confirmed yet: {', '.join(behind)}",
            "Normal for a second after a change; otherwise look at vestibule status and Envoy's log.",
        )
    else:
        yield fine("proxies-in-sync", "every connected proxy has confirmed all it was sent")


def boundaries(status: admin_pb2.ServerStatus) -> Iterator[Finding]:
    """What keeps each service's app and proxy apart from other processes of their machine."""
    services: defaultdict[str, set[str]] = defaultdict(set)
    for proxy in status.proxies:
        services[proxy.boundary or "unknown"].add(proxy.service)
    for boundary, names in sorted(services.items()):
        who = ", ".join(sorted(names))
        if boundary in BOUNDARIES:
            yield fine("boundary", f"{boundary}: {BOUNDARIES[boundary]}: {who}")
        elif boundary == "trust":
            yield warning(
                "boundary", f"trust: loopback ports, open to every process of the machine: {who}", TRUST_HINT
            )
        else:
            yield warning(
                "boundary", f"{boundary}: not a boundary that this version knows: {who}", TRUST_HINT
            )


def agent(status: admin_pb2.AgentStatus, now: float) -> Iterator[Finding]:
    """The agent is in contact with the server and has an identity of its own."""
    if status.server_connected:
        yield fine("agent-server", "the agent is in contact with the server")
    else:
        since = f" for {countdown(now - status.server_seen_at)}" if status.server_seen_at else ""
        yield failed(
            "agent-server",
            f"the agent has had no contact with the server{since}: {status.server_error or 'no reason known'}",
            "Workloads keep what they have. Start the server again, or check its address and the network to it.",
        )
    for problem in status.problems:
        yield failed("agent-files", f"{problem.code} {problem.message}", problem.advice)
    left = status.svid_expires_at - now
    if not status.spiffe_id:
        yield failed(
            "agent-svid",
            "the agent has no identity",
            "Let it join: vestibule agent run --join-token-file FILE",
        )
    elif left <= 0:
        yield failed("agent-svid", "the agent's own SVID has expired", "Restart it with a new join token.")
    else:
        yield fine("agent-svid", f"{status.spiffe_id} is valid for {countdown(left)}")


def certificates(status: admin_pb2.AgentStatus, now: float) -> Iterator[Finding]:
    """No SVID of a workload is expired, or overdue for its renewal."""
    if not status.svids:
        yield warning(
            "svids-renewed",
            "the agent holds no SVIDs for workloads",
            "Create entries whose parent is this agent: vestibule entry create",
        )
        return
    expired = _named(status.svids, lambda each: each.not_after <= now)
    overdue = _named(status.svids, lambda each: each.not_after > now > each.renew_at + RENEWAL_GRACE)
    if expired:
        yield failed(
            "svids-renewed",
            f"expired: {', '.join(expired)}",
            "The agent could not renew them; see the agent's contact with the server above.",
        )
    if overdue:
        yield warning(
            "svids-renewed",
            f"overdue for renewal: {', '.join(overdue)}",
            "The agent retries by itself; see its contact with the server above, and its log.",
        )
    if not expired and not overdue:
        soonest = min(each.not_after for each in status.svids) - now
        count = _count(len(status.svids), "SVID", "SVIDs")
        yield fine("svids-renewed", f"{count} of workloads, the first to expire in {countdown(soonest)}")


def bypasses(status: admin_pb2.AgentStatus, listeners: Iterable[TcpListener]) -> Iterator[Finding]:
    """Nobody listens beyond loopback on the port of an app that has a sidecar here.

    Not looked at: apps in namespaces of their own, where nobody else comes in, and those behind Unix sockets.
    """
    found = past_sidecars(status, listeners)
    for service, port, each in found:
        yield failed(
            "app-bypass",
            f"{service}/{port} listens on {each}, past its sidecar: whoever reaches this address needs no identity",
            "Let the app listen on 127.0.0.1 only, or turn what comes in to its sidecar: docs/interception.md.",
        )
    if (ports := _app_ports(status)) and not found:
        count = _count(len(ports), "app port", "app ports")
        yield fine("app-bypass", f"{count} of this machine can be reached through sidecars only")


def past_sidecars(
    status: admin_pb2.AgentStatus, listeners: Iterable[TcpListener]
) -> list[tuple[str, str, TcpListener]]:
    """Where apps that have a sidecar here can be reached without it: service, port, and the address."""
    ports = _app_ports(status)
    return [(*ports[each.port], each) for each in listeners if each.port in ports and not each.is_loopback]


def _app_ports(status: admin_pb2.AgentStatus) -> dict[int, tuple[str, str]]:
    """Whose port each number is: of which service, by which name."""
    return {
        int(text.rpartition(":")[2]): (sidecar.service, name)
        for sidecar in status.sidecars
        if sidecar.boundary != "netns"
        for name, text in sidecar.apps.items()
        if not text.startswith("unix:")
    }


def clock(synchronised: bool | None, starts: Sequence[float], now: float) -> Finding:
    """The clock is right, as far as this machine can tell.

    ``synchronised`` is what the kernel says (None where it says nothing); ``starts`` are instants that have
    passed for certain, such as the beginnings of certificates.
    """
    if any(now < start for start in starts):
        return failed(
            "clock", "the clock is behind: certificates in use are from the future", "Set the clock right."
        )
    if synchronised is False:
        return warning(
            "clock",
            "the kernel does not know whether the clock is right",
            "Run a time service such as chrony; short-lived certificates need clocks that agree within a minute.",
        )
    return fine("clock", "the clock is synchronised" if synchronised else "nothing speaks against the clock")


def kek(status: admin_pb2.AgentStatus) -> Iterator[Finding]:
    """Where the key that seals the agent's cache lives."""
    if status.kek_home:
        yield fine("kek-home", f"the agent's cache is sealed; its key is {status.kek_home}")


SKEW_WARNED: Final = 15.0
SKEW_BREAKS: Final = 60.0
"""Seconds by which certificates are backdated: what clocks may differ by."""


def clock_skew(status: admin_pb2.AgentStatus) -> Iterator[Finding]:
    """The agent's clock and the server's agree, as the agent measured."""
    if not status.HasField("clock_skew"):
        return
    skew = status.clock_skew
    certain = abs(skew.seconds) - skew.uncertainty_seconds
    words = skew_words(skew.seconds, skew.verified)
    hint = "Set both clocks right, and run a time service such as chrony on both machines; all recovers by itself."
    if certain > SKEW_BREAKS:
        yield failed("clock-skew", f"{words}: handshakes fail", hint)
    elif certain > SKEW_WARNED:
        yield warning("clock-skew", f"{words}: from {SKEW_BREAKS:.0f} s on handshakes fail", hint)
    else:
        yield fine("clock-skew", f"the clocks of agent and server agree within {abs(skew.seconds):.2f} s")


def skew_words(seconds: float, verified: bool) -> str:
    """For people."""
    side = "ahead of" if seconds > 0 else "behind"
    whose = "the server's" if verified else "that of whoever answers at the server's address"
    return f"the agent's clock is {abs(seconds):.0f} s {side} {whose}"


def _named(
    svids: Sequence[admin_pb2.SvidStatus], chosen: Callable[[admin_pb2.SvidStatus], bool]
) -> list[str]:
    return [each.spiffe_id for each in svids if chosen(each)]


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
