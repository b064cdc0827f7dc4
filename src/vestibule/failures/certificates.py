"""Failures of certificates: whose they are, whether they hold, and what speaks TLS at all."""

from __future__ import annotations

from typing import Final

from vestibule.failures.failure import Failure, Sign
from vestibule.failures.layers import Layer
from vestibule.failures.symptom import Side

CERTIFICATES: Final = (
    Failure(
        name="peer-certificate-expired",
        layer=Layer.IDENTITY,
        title="The other side's certificate has expired",
        meaning="A certificate in the other side's chain had ended when the connection was made: its "
        "rotation stands still, or one of the two clocks is wrong.",
        confirm=(
            "`vestibule status` shows how long the certificates of each proxy still last.",
            "`vestibule check` compares the clocks of the nodes with the server's.",
        ),
        fix="If one clock is off, mend it (chrony, NTP). Else look at the agent of the node whose "
        "certificate ended: it cannot reach the server, or no entry gives the service its "
        "identity any more (`vestibule why`).",
        example="TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify "
        "cert failed: certificate has expired",
        signs=(
            Sign(transport=r"certificate[_ ]has[_ ]expired(?! or)|CERTIFICATE_EXPIRED"),
            Sign(
                text=r"certificate has expired(?! or)|x509: certificate has expired and is|"
                r"SSLV3_ALERT_CERTIFICATE_EXPIRED"
            ),
        ),
    ),
    Failure(
        name="peer-certificate-not-yet-valid",
        layer=Layer.IDENTITY,
        title="The other side's certificate does not count yet",
        meaning="A certificate begins in the future by the clock of the side that looked at it. "
        "Certificates are dated back a little for clocks that differ a little; here they "
        "differ by more.",
        confirm=("`vestibule check` compares the clocks of the nodes with the server's.",),
        fix="Set the clocks right: of the node that refuses, of the node that was refused, and of the"
        " server.",
        example="TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify "
        "cert failed: certificate is not yet valid",
        signs=(
            Sign(transport=r"not[_ ]yet[_ ]valid"),
            Sign(text=r"(certificate|cert)\S* (is )?not yet valid|has expired or is not yet valid"),
        ),
    ),
    Failure(
        name="peer-has-another-identity",
        layer=Layer.IDENTITY,
        title="The other side is somebody else than was meant",
        meaning="The certificate is sound, and its SPIFFE ID is not the one that the intent expects "
        "there: another service listens at that address, or an entry gives the service a name"
        " that differs from the intent's.",
        confirm=(
            "`vestibule entry show` lists who may be what.",
            "`vestibule status` shows which instance has which identity and address.",
        ),
        fix="Give the service the identity that the intent names (`identity` in mesh.yaml, the "
        "entry's SPIFFE ID), or remove what else listens at the address.",
        example="TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify "
        "cert failed: SAN match",
        signs=(
            Sign(transport=r"SAN[_ ]match|certificate[_ ]SANs"),
            Sign(code=frozenset({"VST2404"})),
        ),
    ),
    Failure(
        name="peer-of-unknown-authority",
        layer=Layer.IDENTITY,
        title="The other side's certificate is signed by an authority that is not trusted here",
        meaning="No bundle that the refusing side holds has the authority: another trust domain, a "
        "server that was set up anew, or a bundle that is older than the last change of "
        "authorities.",
        confirm=(
            "`vestibule bundle show` on both sides: the authorities have to overlap.",
            "`vestibule federation list`, if the other side is of another trust domain.",
        ),
        fix="Federate with the other trust domain if it should be trusted. If it is the same one, let"
        " the agent that holds the old bundle reach the server; a node of a server that is gone "
        "has to join anew.",
        example="TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:unable "
        "to get local issuer certificate",
        signs=(
            Sign(
                transport=r"unable[_ ]to[_ ]get[_ ](local[_ ])?issuer|UNKNOWN_CA|"
                r"no[_ ]trusted[_ ]ca|self[_ -]signed"
            ),
            Sign(transport=r"no[_ ]trust[_ ]bundle"),
            Sign(code=frozenset({"VST2403"})),
            Sign(
                text=r"certificate signed by unknown authority|unknown certificate authority|SELF_SIGNED_CERT"
            ),
        ),
    ),
    Failure(
        name="no-client-certificate",
        layer=Layer.IDENTITY,
        title="The caller showed no certificate",
        meaning="Whoever connected speaks TLS and has no SVID to show: it is not in the mesh, or its "
        "proxy has got no certificate yet.",
        confirm=(
            "The log of the callee's proxy has the address that it came from.",
            "`vestibule why --spiffe-id ID` says why a service has no identity.",
        ),
        fix="Call through the sidecar, or with a library that shows an SVID (docs/sdk.md).",
        example="TLS_error:|268435648:SSL "
        "routines:OPENSSL_internal:PEER_DID_NOT_RETURN_A_CERTIFICATE:peer did not provide "
        "required client certificate:TLS_error_end",
        signs=(
            Sign(transport=r"PEER_DID_NOT_RETURN_A_CERTIFICATE|CERTIFICATE_REQUIRED"),
            Sign(
                text=r"(alert )?certificate[_ ]required|tls: certificate required|"
                r"bad_certificate.*no certificate"
            ),
        ),
    ),
    Failure(
        name="own-certificate-missing",
        layer=Layer.IDENTITY,
        title="The proxy has no certificate of its own yet",
        meaning="The agent has not given this proxy its identity: no entry fits the process, or the "
        "agent is away.",
        confirm=(
            "`vestibule why --spiffe-id ID` names the selector that no entry has.",
            "`vestibule check` looks at the agent's socket.",
        ),
        fix="Make the entry, or start the agent; the proxy goes on by itself.",
        example="TLS_error:|Secret is not supplied by SDS",
        signs=(
            Sign(transport=r"Secret[_ ]is[_ ]not[_ ]supplied"),
            Sign(code=frozenset({"VST2105", "VST2131", "VST2402"})),
            Sign(text=r"no identity issued"),
        ),
    ),
    Failure(
        name="peer-certificate-malformed",
        layer=Layer.IDENTITY,
        title="The other side's certificate is no SVID",
        meaning="It has no SPIFFE ID, several of them, or may sign others: the SPIFFE standard has it"
        " refused whoever signed it.",
        confirm=("`vestibule scan HOST:PORT` shows what is in it.",),
        fix="Have the certificate issued by the mesh's own server, one SPIFFE ID each.",
        example="TLS_error:|CERTIFICATE_VERIFY_FAILED:verify cert failed: cert precheck",
        signs=(Sign(transport=r"cert[_ ]precheck"),),
    ),
    Failure(
        name="plaintext-to-tls",
        layer=Layer.TLS,
        title="Somebody speaks plain text to a port that wants TLS",
        meaning="The first bytes were no TLS: the caller goes around its sidecar, or dials the "
        "callee's mTLS port by hand.",
        confirm=("The log of the callee's proxy has the address that it came from.",),
        fix="Call `http://SERVICE` through the sidecar; the port of a sidecar is for sidecars. A "
        "service that has to be called in plain text for a while says `mtls: permissive`, with an"
        " end.",
        example="TLS_error:|268435612:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end",
        signs=(
            Sign(transport=r"HTTP_REQUEST|NOT_TLS", side=Side.CALLEE),
            Sign(transport=r"WRONG_VERSION_NUMBER", side=Side.CALLEE),
            Sign(layer="listener", flags=frozenset({"NR"})),
            Sign(details=("filter_chain_not_found",)),
        ),
    ),
    Failure(
        name="tls-to-plaintext",
        layer=Layer.TLS,
        title="The other side speaks plain text where TLS is expected",
        meaning="The answer to the handshake was no TLS: an app, and no sidecar, listens at the "
        "address, or the certificate of a service outside is expected at a port that has "
        "none.",
        confirm=("`vestibule scan HOST:PORT` says whether the port speaks TLS.",),
        fix="Have the callee's sidecar listen there and the app on loopback behind it; check the "
        "address that is registered (`vestibule status`).",
        example="TLS_error:|268435703:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
        signs=(
            Sign(transport=r"WRONG_VERSION_NUMBER|PACKET_LENGTH_TOO_LONG"),
            Sign(
                text=r"wrong version number|first record does not look like a TLS handshake|"
                r"packet length too long"
            ),
        ),
    ),
    Failure(
        name="tls-versions-differ",
        layer=Layer.TLS,
        title="The two sides have no TLS version or cipher in common",
        meaning="One of them is older than what the other accepts; inside the mesh that is TLS 1.3.",
        confirm=("`vestibule scan HOST:PORT` lists the versions and ciphers of a port.",),
        fix="Bring the older side up to date, or reach it as a host outside the mesh, whose versions "
        "`egress` may bound.",
        example="TLS_error:|268435696:SSL routines:OPENSSL_internal:UNSUPPORTED_PROTOCOL:TLS_error_end",
        signs=(
            Sign(
                transport=r"UNSUPPORTED_PROTOCOL|PROTOCOL_VERSION|NO_SHARED_CIPHER|"
                r"HANDSHAKE_FAILURE|INSUFFICIENT_SECURITY"
            ),
            Sign(
                text=r"protocol version not supported|unsupported protocol|no shared cipher|"
                r"alert protocol version"
            ),
        ),
    ),
    Failure(
        name="outside-certificate-invalid",
        layer=Layer.TLS,
        title="A host outside has a certificate that is not trusted",
        meaning="The public authorities that the sidecar believes did not sign it, or it is made out "
        "to another name.",
        confirm=("`vestibule scan HOST:443` shows chain, names and end.",),
        fix="Name the host as its certificate does (`sni` in egress/NAME.yaml), or give the sidecar "
        "the authorities that signed it (`--ca-bundle`).",
        example='502 {"error": "VST3032", …}',
        signs=(Sign(code=frozenset({"VST3032", "VST3036"})),),
    ),
    Failure(
        name="peer-refused-our-certificate",
        layer=Layer.IDENTITY,
        title="The other side refused our certificate",
        meaning="It ended the handshake because of what we showed. Why stands in its own log: "
        "expired, not yet valid, of an authority that it does not trust, or revoked.",
        confirm=(
            "The callee's proxy has a record of the refused connection, at the same time, with the cause.",
        ),
        fix="Read the callee's record: `vestibule diagnose` of that line names the cause.",
        example="TLS_error:|268436498:SSL "
        "routines:OPENSSL_internal:SSLV3_ALERT_CERTIFICATE_UNKNOWN:TLS_error_end",
        signs=(
            Sign(
                transport=r"ALERT_(CERTIFICATE_UNKNOWN|BAD_CERTIFICATE|UNSUPPORTED_CERTIFICATE|"
                r"CERTIFICATE_REVOKED|ACCESS_DENIED|DECRYPT_ERROR)"
            ),
            Sign(text=r"tls: bad certificate|alert bad certificate|certificate unknown"),
        ),
    ),
    Failure(
        name="certificate-refused",
        layer=Layer.IDENTITY,
        title="A certificate did not stand up to the check",
        meaning="The side that looked at it gives no closer reason.",
        confirm=("`vestibule scan HOST:PORT --with-svid` shows what either side presents.",),
        fix="Compare the bundles of both sides (`vestibule bundle show`), their clocks (`vestibule "
        "check`) and the identity that is expected.",
        example="TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:TLS_error_end",
        signs=(
            Sign(transport=r"CERTIFICATE_VERIFY_FAILED"),
            Sign(text=r"certificate verify failed|x509: "),
        ),
    ),
)
