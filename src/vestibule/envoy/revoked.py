"""Callers whose proof of identity was taken back: refused before anything else is looked at.

Each listener for other proxies has a slot of its own for it, filled by ECDS: what is in it counts for the next
request, also on connections that are open.  What a certificate says is written down once per connection, when its
handshake is done, in filter state; a request then costs map look-ups, and nothing while nothing is revoked.

Certificates are told by their serial numbers.  A fingerprint would not do for them: whoever has a certificate signed
with ECDSA can turn its signature into another valid one, and with it the fingerprint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from envoy.config.core.v3 import base_pb2, config_source_pb2, extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2
from envoy.extensions.matching.common_inputs.ssl.v3 import ssl_inputs_pb2
from google.protobuf.any_pb2 import Any
from xds.type.matcher.v3.matcher_pb2 import Matcher

from vestibule.envoy.nothing import NOTHING
from vestibule.envoy.places import ads
from vestibule.envoy.protos import packed, serialized
from vestibule.envoy.written_down import (
    extension,
    field,
    found_in,
    from_on,
    if_like,
    is_like,
    state,
    values,
    verdict,
)
from vestibule.spiffe import (
    Reason,
    Revocation,
    RevokedAgent,
    RevokedAuthority,
    RevokedCertificate,
    RevokedIdentity,
)
from vestibule.spiffe.revocations import MARK_BITS
from vestibule.xds.resources import EXTENSION, Resource

HTTP: Final = "revoked/http"
TCP: Final = "revoked/tcp"
"""The slots, in listeners for requests and in those for connections."""

REVOKED: Final = "vestibule/revoked"
"""How the names begin under which revoked callers are refused; after a slash follows what of theirs is revoked."""

NOT_REVOKED: Final = "vestibule/not-revoked"
"""By what somebody is let past the list.  It is no rule that decides about the call."""
_SERIAL: Final = "vestibule.caller.serial"
_BORN: Final = "vestibule.caller.born"
_ISSUER: Final = "vestibule.caller.issuer"
_CHAIN: Final = "vestibule.caller.chain"
_FINGERPRINTS: Final = "vestibule.caller.fingerprints"
_FACTS: Final = {
    _SERIAL: "%DOWNSTREAM_PEER_SERIAL%",
    _BORN: "%DOWNSTREAM_PEER_CERT_V_START(%s)%",
    _ISSUER: "%DOWNSTREAM_PEER_ISSUER%",
    _CHAIN: "%DOWNSTREAM_PEER_CHAIN_SERIALS%",
    _FINGERPRINTS: "%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256%",
}
_SHORTEST_NAME: Final = 32
"""Hexadecimal digits of a key's identifier, so that it is found in an issuer's name by no accident."""

_AT_ONCE: Final = 256
"""So many authorities one regular expression looks for."""

_HTTP_RBAC: Final = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
_TCP_RBAC: Final = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC"
_STATS: Final = "revoked"

# network.set_filter_state's on_downstream_tls_handshake, which Envoy knows since 1.37 and the Python types do not yet:
# field 2, of the same type as field 1.  Before the handshake there is no certificate to speak of.
_AFTER_HANDSHAKE_FIELD: Final = 2 << 3 | 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """What is refused of callers, in the order of their names; equal lists make equal slots.

    ``serials`` and ``above`` are as Envoy writes serial numbers; ``above`` are those of signing certificates.
    ``identities`` come with the second since 1970 before which what they were issued does not count; None: nothing.
    """

    serials: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    identities: tuple[tuple[str, int | None], ...] = ()
    issuers: tuple[str, ...] = ()
    above: tuple[str, ...] = ()
    fingerprints: tuple[str, ...] = ()

    @classmethod
    def of(cls, revocations: Iterable[Revocation]) -> Refused:
        """Whatever proxies can tell of what is revoked."""
        serials, marks, above = set[str](), set[str](), set[str]()
        issuers, fingerprints = set[str](), set[str]()
        identities: dict[str, int | None] = {}
        for each in revocations:
            match each.target:
                case RevokedCertificate(serial=serial):
                    serials.add(written(serial))
                    if each.reason is Reason.CA_COMPROMISE:
                        above.add(written(serial))
                case RevokedAgent(mark=mark):
                    marks.add(written(mark << MARK_BITS)[: -MARK_BITS // 4])
                case RevokedIdentity() as target:
                    before = target.issued_before
                    identities[str(target.spiffe_id)] = None if before is None else _seconds(before)
                case RevokedAuthority() as target:
                    fingerprints.add(target.fingerprint)
                    if len(target.authority_id) >= _SHORTEST_NAME:
                        issuers.add(target.authority_id)
                case _:
                    pass  # keys of tokens
        return cls(
            serials=tuple(sorted(serials)),
            marks=tuple(sorted(marks)),
            identities=tuple(sorted(identities.items())),
            issuers=tuple(sorted(issuers)),
            above=tuple(sorted(above)),
            fingerprints=tuple(sorted(fingerprints)),
        )


def written(serial: int) -> str:
    """A serial number as Envoy writes it: hexadecimal, in whole bytes."""
    digits = f"{serial:x}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"


def _seconds(instant: datetime) -> int:
    return int(instant.timestamp())


NOBODY: Final = Refused()
"""Where nothing is revoked."""


# --------------------------------------------------------------------------------------- filters of listeners


def facts() -> listener_components_pb2.Filter:
    """The first filter of a chain with TLS: writes down what the slots look at."""
    body = b"".join(field(_AFTER_HANDSHAKE_FIELD, serialized(each)) for each in values(_FACTS))
    config = set_filter_state_pb2.Config()
    config.MergeFromString(body)
    return listener_components_pb2.Filter(
        name="envoy.filters.network.set_filter_state", typed_config=packed(config)
    )


def http_filter() -> hcm_pb2.HttpFilter:
    """The slot among the filters for requests: to be the first."""
    return hcm_pb2.HttpFilter(name=HTTP, config_discovery=_discovery(_HTTP_RBAC, NOTHING.type_url))


def tcp_filter() -> listener_components_pb2.Filter:
    """The slot among the filters for connections, after ``facts``."""
    return listener_components_pb2.Filter(name=TCP, config_discovery=_discovery(_TCP_RBAC))


def generation(cut: str) -> base_pb2.Metadata | None:
    """What makes another filter chain of the same one: then what goes on in the old one ends, within the drain time."""
    if not cut:
        return None
    metadata = base_pb2.Metadata()
    metadata.filter_metadata["vestibule"].update({"revocation": cut})
    return metadata


def _discovery(*type_urls: str) -> config_source_pb2.ExtensionConfigSource:
    return config_source_pb2.ExtensionConfigSource(config_source=ads(), type_urls=type_urls)


# --------------------------------------------------------------------------------------------------- slots


@lru_cache(maxsize=8)
def slots(refused: Refused) -> dict[bool, Resource]:
    """What fills the slots, the same for every proxy: True for requests, False for connections."""
    if refused == NOBODY:
        # Without a matcher the filter lets everybody through.
        nobody = network_rbac_pb2.RBAC(stat_prefix=_STATS)
        return {True: _slot(HTTP, NOTHING), False: _slot(TCP, packed(nobody))}
    matcher = _tree(refused)
    return {is_http: _asking(matcher, is_http=is_http) for is_http in (True, False)}


def slot_before(refused: Refused, then: Matcher, *, is_http: bool) -> Resource:
    """A slot for what is revoked and, of those who are not, for what another one asks."""
    return _asking(_tree(refused, Matcher.OnMatch(matcher=then)), is_http=is_http)


def _asking(matcher: Matcher, *, is_http: bool) -> Resource:
    if is_http:
        return _slot(HTTP, packed(http_rbac_pb2.RBAC(matcher=matcher)))
    return _slot(TCP, packed(network_rbac_pb2.RBAC(matcher=matcher, stat_prefix=_STATS)))


def _slot(name: str, config: Any) -> Resource:
    extension = extension_pb2.TypedExtensionConfig(name=name, typed_config=config)
    return Resource.of(EXTENSION, name, serialized(extension))


def _tree(refused: Refused, then: Matcher.OnMatch | None = None) -> Matcher:
    """Each question that has an answer, one after the other; who is not refused by any is let through, or ``then``."""
    through = otherwise = then or verdict(NOT_REVOKED, allow=True)
    if refused.identities:
        on = {name: _born_before(since, through) for name, since in refused.identities}
        otherwise = found_in(extension("caller", ssl_inputs_pb2.UriSanInput()), on, otherwise)
    for matcher in _authorities(refused):
        matcher.on_no_match.CopyFrom(otherwise)
        otherwise = Matcher.OnMatch(matcher=matcher)
    if refused.marks:
        agent = verdict(f"{REVOKED}/agent")
        otherwise = found_in(state(_SERIAL), dict.fromkeys(refused.marks, agent), otherwise, prefix=True)
    if refused.serials:
        certificate = verdict(f"{REVOKED}/certificate")
        otherwise = found_in(state(_SERIAL), dict.fromkeys(refused.serials, certificate), otherwise)
    return otherwise.matcher


def _born_before(since: int | None, through: Matcher.OnMatch) -> Matcher.OnMatch:
    denied = verdict(f"{REVOKED}/identity")
    if since is None:
        return denied
    # What does not say when it was issued counts as old.
    return if_like(_BORN, from_on(since), through, denied)


def _authorities(refused: Refused) -> Iterator[Matcher]:
    """Questions about who signed: by the issuer's name, and by the certificates that the caller showed.

    A caller has to show every certificate between its own and the bundle, and an issuer's name holds its key's
    identifier.  A thief's own authorities below a stolen one are known by the stolen one's place in the chain.
    """
    asked = (
        (_ISSUER, refused.issuers, ".*(?:{}).*"),
        (_CHAIN, refused.above, "(?:.*,)?(?:{})(?:,.*)?"),
        (_FINGERPRINTS, refused.fingerprints, ".*(?:{}).*"),
    )
    for key, wanted, shape in asked:
        for some in _in_parts(wanted):
            entry = Matcher.MatcherList.FieldMatcher(
                predicate=is_like(key, shape.format("|".join(some))),
                on_match=verdict(f"{REVOKED}/authority"),
            )
            yield Matcher(matcher_list=Matcher.MatcherList(matchers=[entry]))


def _in_parts(wanted: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(wanted), _AT_ONCE):
        yield wanted[start : start + _AT_ONCE]
