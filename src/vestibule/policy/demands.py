"""What a rule may ask for beyond caller, method and path: a user's or client's token, or what an MCP client does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CERTIFICATE_CLAIM: Final = "cnf_x5t_hex"
"""The SHA-256 of the certificate that a token is bound to, in hexadecimal digits as proxies write it: what ``cnf`` says
in base64url, which conditions of proxies cannot read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenDemand:
    """A verified JWT that the request has to carry.

    ``issuer`` is a name in the mesh's list of issuers.  All ``scopes`` must be there (RFC 6749, section 3.3), and each
    of ``claims`` must have that text.  ``bound``: whoever presents it (the outermost ``act.sub``, else ``client_id``)
    must be the caller of the connection.  ``certificate``: the token is bound to a certificate (RFC 8705), and that
    must be the connection's.  ``svid``: it is a JWT-SVID, which is presented by whom it is of (``sub``).  ``inject``:
    the caller's proxy gets such a token of the mesh's own token service and sends it along; nothing is decided by that.
    """

    issuer: str
    audience: str
    scopes: tuple[str, ...] = ()
    claims: tuple[tuple[str, str], ...] = ()
    bound: bool = True
    svid: bool = False
    certificate: bool = False
    inject: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class McpDemand:
    """What an MCP client asks the server for; parts without members match nothing, unless all are empty.

    ``tools``, ``resources`` (URIs) and ``prompts`` name what is called, read and got; a trailing ``*`` stands for any
    ending.  ``methods`` are JSON-RPC methods such as ``tools/list``.
    """

    tools: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
