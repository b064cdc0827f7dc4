"""What proxies answer to clients of MCP: errors of JSON-RPC, which they show to whoever asked.

The official Python SDK takes an error's code, message and data from any answer that is one, whatever its status; of
others it says only that the server returned an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.accesslog.v3.accesslog_pb2 import AccessLogFilter
from envoy.config.core.v3.substitution_format_string_pb2 import SubstitutionFormatString
from envoy.extensions.access_loggers.filters.cel.v3 import cel_pb2
from envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2 import (
    LocalReplyConfig,
    ResponseMapper,
)
from google.protobuf.struct_pb2 import Struct

from vestibule.envoy import codes, replies, told
from vestibule.envoy.mcp import METADATA
from vestibule.envoy.protos import packed
from vestibule.policy.mcp import BODY_NOT_PLAIN, TARGET_NOT_NORMAL, UNKNOWN_METHOD

REFUSED: Final = -32003
"""The proxy's own error in JSON-RPC; MCP leaves -32000 to -32019 to implementations, and its SDKs use the first two."""

INVALID_REQUEST: Final = -32600
"""JSON-RPC 2.0, section 5.1."""

SPEAKS_MCP: Final = {"speaks": "mcp"}
"""What stands in the metadata of a caller's routes, under ``vestibule``, where the destination speaks MCP."""

_TO_MCP: Final = "xds.route_metadata.filter_metadata['vestibule']['speaks'] == 'mcp'"
_INVALID: Final = frozenset({codes.NOT_MCP.code, codes.MCP_AMBIGUOUS.code, codes.MCP_TOO_LARGE.code})


def of(answers: LocalReplyConfig, *, tell_rule: bool = False) -> LocalReplyConfig:
    """The answers of a callee's proxy, and those about messages, as errors of JSON-RPC.

    ``tell_rule``: refused callers learn the details, too (``told``).
    """
    config = LocalReplyConfig()
    for mapper in (*_about_messages(tell_rule=tell_rule), *answers.mappers):
        changed = config.mappers.add()
        changed.CopyFrom(mapper)
        _wrap(changed.body_format_override)
    return config


def beside(answers: LocalReplyConfig) -> LocalReplyConfig:
    """The answers of a caller's proxy, about destinations that speak MCP as errors of JSON-RPC (``SPEAKS_MCP``)."""
    config = LocalReplyConfig()
    for mapper in answers.mappers:
        changed = config.mappers.add()
        changed.CopyFrom(mapper)
        changed.filter.and_filter.CopyFrom(accesslog_pb2.AndFilter(filters=[_cel(_TO_MCP), mapper.filter]))
        _wrap(changed.body_format_override)
    config.mappers.extend(answers.mappers)
    return config


def _about_messages(*, tell_rule: bool) -> Iterator[ResponseMapper]:
    large = "a message of MCP has at most a mebibyte"
    unread = "the request is no message of MCP"
    by_details = {
        "mcp_duplicate_keys": (codes.MCP_AMBIGUOUS, "a key comes twice in the message"),
        "mcp_body_too_large": (codes.MCP_TOO_LARGE, large),
        "request_payload_too_large": (codes.MCP_TOO_LARGE, large),
        "mcp_not_jsonrpc": (codes.NOT_MCP, unread),
        "mcp_parse_error": (codes.NOT_MCP, unread),
        "mcp_reject_no_mcp": (codes.NOT_MCP, unread),
    }
    for details, (code, message) in by_details.items():
        mapper = _mapper(details, replies.body(code, message, reason="%LOCAL_REPLY_BODY%"))
        yield told.add_header(mapper, code) if tell_rule else mapper
    by_name = {
        BODY_NOT_PLAIN: (
            codes.MCP_AMBIGUOUS,
            "the message could mean one thing to the proxy and another to the server",
        ),
        UNKNOWN_METHOD: (codes.MCP_UNKNOWN_METHOD, "neither MCP nor a rule knows the method"),
        TARGET_NOT_NORMAL: (
            codes.MCP_TARGET_NOT_NORMAL,
            "what the message names is missing or not in its normal form",
        ),
    }
    for name, (code, message) in by_name.items():
        mapper = _mapper(f"rbac_access_denied_matched_policy[{name}]", replies.body(code, message))
        yield told.add_header(mapper, code, name) if tell_rule else mapper


def _mapper(details: str, text: SubstitutionFormatString) -> ResponseMapper:
    return ResponseMapper(filter=_cel(f"response.code_details == '{details}'"), body_format_override=text)


def _cel(text: str) -> AccessLogFilter:
    expression = cel_pb2.ExpressionFilter(expression=text)
    return AccessLogFilter(
        extension_filter=accesslog_pb2.ExtensionFilter(
            name="envoy.access_loggers.extension_filters.cel", typed_config=packed(expression)
        )
    )


def _wrap(text: SubstitutionFormatString) -> None:
    said = dict(text.json_format.items())
    code = str(said["error"])
    shown = f"{code}: {said.pop('message')}"
    envelope = Struct()
    envelope.update(
        {
            "jsonrpc": "2.0",
            "id": f"%DYNAMIC_METADATA({METADATA}:id)%",
            "error": {
                "code": INVALID_REQUEST if code in _INVALID else REFUSED,
                "message": shown,
                "data": said,
            },
        }
    )
    text.json_format.CopyFrom(envelope)
