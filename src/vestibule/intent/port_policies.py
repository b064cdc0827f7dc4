"""What an intent says about the calls to one port."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from vestibule.intent.model import Intent, Port, Protocol, Service
from vestibule.policy import PortPolicy, Rule
from vestibule.policy.identities import above
from vestibule.spiffe import SpiffeId


def port_policy(intent: Intent, service: Service, port: Port) -> PortPolicy:
    """All that decides about calls to a port, except emergencies, which no intent knows of."""
    allow, deny = service.rules_for(port.name), service.denials_for(port.name)
    return PortPolicy(
        service=service.name,
        port=port.name,
        allow=allow,
        deny=deny,
        is_http=port.protocol.is_http,
        is_mcp=port.protocol is Protocol.MCP,
        environment=intent.mesh.environment,
        labels=service.labels,
        callers=labels_of_callers(intent, (*allow, *deny)),
    )


def labels_of_callers(intent: Intent, rules: tuple[Rule, ...]) -> Mapping[SpiffeId, Mapping[str, str]]:
    """The labels of the services that rules with conditions speak of: only conditions ask for labels."""
    asking = [rule for rule in rules if rule.when is not None]
    if not asking:
        return MappingProxyType({})
    anyone = any(rule.anyone for rule in asking)
    exact = {match.id for rule in asking for match in rule.callers}
    below = {match.id for rule in asking for match in rule.callers if match.below}

    def is_meant(caller: SpiffeId) -> bool:
        return anyone or caller in exact or not below.isdisjoint(above(caller))

    return MappingProxyType(
        {
            each.spiffe_id: each.labels
            for each in intent.services.values()
            if each.labels and is_meant(each.spiffe_id)
        }
    )
