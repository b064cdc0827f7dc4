"""The API's description (OpenAPI 3.1), for people, generators of clients and testers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from vestibule import __version__
from vestibule.doors.oauth.clients import ASSERTION_TYPES
from vestibule.doors.oauth.grants import CLIENT_CREDENTIALS, JWT_BEARER, TOKEN_EXCHANGE
from vestibule.doors.oauth.metadata import INTROSPECT, JWKS, METADATA, OPENAPI, OPENID, REVOKE, TOKEN

_TEXT: Final = {"type": "string"}
_NUMBER: Final = {"type": "integer"}
_TOKEN: Final = {"type": "string", "description": "A JWT in compact form.", "maxLength": 16384}
_TYPE: Final = {"type": "string", "description": "A URN of RFC 8693, section 3."}
_SCOPE: Final = {"type": "string", "description": "Scopes, separated by single spaces."}
_TARGETS: Final = {
    "audience": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 512},
        "maxItems": 8,
        "description": "Whom the token is for, as the intent calls it; once for each.",
    },
    "resource": {
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": 512},
        "maxItems": 8,
        "description": "The same, as an absolute URI (RFC 8707).",
    },
}
_CLIENT: Final = {
    "client_id": {"type": "string", "description": "The client's SPIFFE ID; may be left out."},
    "client_assertion_type": {"type": "string", "enum": list(ASSERTION_TYPES)},
    "client_assertion": {
        "type": "string",
        "description": "A JWT-SVID whose only audience is the issuer; instead of a certificate.",
    },
}
_ERRORS: Final = {
    "400": "It makes no sense, or may not be.",
    "401": "Who asks is not known.",
    "405": "This method is not served.",
    "413": "It is too long.",
    "429": "Too many requests of one identity are under way.",
    "500": "A bug; the log has it.",
    "503": "The secret manager, which keeps the keys, is sealed, or the audit log cannot be written.",
}


@lru_cache(maxsize=4)
def openapi(issuer: str) -> str:
    """The document, in JSON."""
    return json.dumps(_document(issuer))


def _document(issuer: str) -> Mapping[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Vestibule's token service",
            "version": __version__,
            "description": "Workload identity in, tightly scoped JWTs out (RFC 6749, 8693, 9068).",
        },
        "servers": [{"url": issuer}],
        "paths": {
            TOKEN: {"post": _asked("getToken", "A token.", _TOKEN_FORM, "Token")},
            INTROSPECT: {
                "post": _asked("introspect", "What a token says (RFC 7662).", _one_token(), "Introspection")
            },
            REVOKE: {
                "post": _asked("revoke", "A token counts no longer (RFC 7009).", _one_token(), "Nothing")
            },
            JWKS: {"get": _shown("getKeys", "The keys that tokens are verified with (RFC 7517).", "Keys")},
            METADATA: {"get": _shown("getMetadata", "RFC 8414.", "Metadata")},
            OPENID: {"get": _shown("getOpenidConfiguration", "The same, for OpenID Connect.", "Metadata")},
            OPENAPI: {"get": _shown("getDescription", "This document.", "Object")},
        },
        "components": {"schemas": _SCHEMAS},
    }


def _asked(name: str, summary: str, form: Mapping[str, Any], answer: str) -> Mapping[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {
                "application/x-www-form-urlencoded": {
                    "schema": form,
                    "encoding": {each: {"style": "form", "explode": True} for each in _TARGETS},
                }
            },
        },
        "responses": {"200": _answer("Done.", answer), **_refusals(_ERRORS)},
    }


def _shown(name: str, summary: str, answer: str) -> Mapping[str, Any]:
    return {
        "operationId": name,
        "summary": summary,
        "responses": {
            "200": _answer("It.", answer),
            **_refusals({each: _ERRORS[each] for each in ("400", "405", "500", "503")}),
        },
    }


def _refusals(errors: Mapping[str, str]) -> Mapping[str, Any]:
    return {status: _answer(text, "Error") for status, text in errors.items()}


def _answer(text: str, schema: str) -> Mapping[str, Any]:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {"description": text, "content": content}


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> Mapping[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}


def _one_token() -> Mapping[str, Any]:
    return _object({"token": _TOKEN, "token_type_hint": _TEXT, **_CLIENT}, ["token"])


def _grant(name: str, more: Mapping[str, Any], required: Sequence[str] = ()) -> Mapping[str, Any]:
    fields = {"grant_type": {"const": name}, "scope": _SCOPE, **_TARGETS, **more, **_CLIENT}
    return _object(fields, ["grant_type", *required])


_TOKEN_FORM: Final = {
    "oneOf": [
        _grant(CLIENT_CREDENTIALS, {}),
        _grant(
            TOKEN_EXCHANGE,
            {
                "subject_token": _TOKEN,
                "subject_token_type": _TYPE,
                "actor_token": _TOKEN,
                "actor_token_type": _TYPE,
                "requested_token_type": _TYPE,
                "request_context": {"type": "string", "description": "JSON, of transaction tokens."},
                "request_details": {"type": "string", "description": "JSON, of transaction tokens."},
            },
            ["subject_token", "subject_token_type"],
        ),
        _grant(JWT_BEARER, {"assertion": _TOKEN}, ["assertion"]),
    ]
}
_SCHEMAS: Final = {
    "Error": _object({"error": _TEXT, "error_description": _TEXT}, ["error", "error_description"]),
    "Token": _object(
        {
            "access_token": _TEXT,
            "token_type": {"type": "string", "enum": ["Bearer", "N_A"]},
            "expires_in": _NUMBER,
            "scope": _TEXT,
            "issued_token_type": _TYPE,
        },
        ["access_token", "token_type", "expires_in"],
    ),
    "Introspection": _object(
        {
            "active": {"type": "boolean"},
            **dict.fromkeys(("scope", "client_id", "sub", "iss", "jti", "token_type", "txn"), _TEXT),
            **dict.fromkeys(("exp", "iat"), _NUMBER),
            "aud": {"type": ["string", "array"], "items": _TEXT},
            "act": {"type": "object"},
            "may_act": {"type": "object"},
            "cnf": {"type": "object"},
        },
        ["active"],
    ),
    "Nothing": {"type": "object", "maxProperties": 0},
    "Object": {"type": "object"},
    "Keys": _object({"keys": {"type": "array", "items": {"type": "object"}}}, ["keys"]),
    "Metadata": _object(
        {"issuer": _TEXT, "token_endpoint": _TEXT, "jwks_uri": _TEXT},
        ["issuer", "token_endpoint", "jwks_uri"],
    ),
}
