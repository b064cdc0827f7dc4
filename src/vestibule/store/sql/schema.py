"""The tables as they are now.  ``migrations/`` holds the way from each older version; a test compares the two."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
)

from vestibule.records import AppendedKind, AuthorityState, Boundary, Health, IntentOutcome
from vestibule.spiffe import Reason
from vestibule.store.sql.columns import (
    Certificates,
    CertificateSet,
    Choice,
    Domain,
    Duration,
    Id,
    Instant,
    JwtAuthorities,
    Location,
    Locations,
    Pairs,
    Selectors,
    Texts,
)

REVISIONS: Final = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
    "0015",
)
"""All versions of the schema, oldest first; the last one is what is below."""

KIND: Final = "kind"
"""In a table's ``info``: the kind of change (``store.changes``) that a change of its rows is; none: told to nobody."""

metadata = MetaData()

# Alembic's own table, so that either of us may write the first version.
version = Table("alembic_version", metadata, Column("version_num", String(32), primary_key=True))

entries = Table(
    "entries",
    metadata,
    Column("id", Text, primary_key=True),
    # SHA-256 of SPIFFE ID, parent ID and selectors: of several writers, one creates an entry.
    Column("similarity", LargeBinary(32), nullable=False, unique=True),
    Column("spiffe_id", Id, nullable=False),
    Column("parent_id", Id, nullable=False),
    Column("selectors", Selectors, nullable=False),
    Column("x509_svid_ttl", Duration),
    Column("jwt_svid_ttl", Duration),
    Column("federates_with", Texts, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("downstream", Boolean, nullable=False),
    Column("expires_at", Instant),
    Column("dns_names", Texts, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("store_svid", Boolean, nullable=False),
    Column("hint", Text, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("disable_x509_svid_prefetch", Boolean, nullable=False, server_default=false()),
    Column("jwt_svid_include_jti", Boolean, nullable=False, server_default=false()),
    Column("labels", Pairs, nullable=False, server_default="[]"),
    Column("jwt_claims", Text, nullable=False, server_default=""),
    Column("path_template", Text, nullable=False, server_default=""),
    Column("dns_templates", Texts, nullable=False, server_default="[]"),
    Column("template_id", Text, nullable=False, server_default=""),
    Column("max_identities", Integer, nullable=False, server_default="0"),
    Index("entries_by_spiffe_id", "spiffe_id"),
    Index("entries_by_parent_id", "parent_id"),
    Index("entries_by_template_id", "template_id"),
    info={KIND: "entries"},
)

administrators = Table(
    "administrators",
    metadata,
    Column("id", Text, primary_key=True),
    Column("spiffe_id", Id, nullable=False),
    Column("powers", Texts, nullable=False),
    Column("paths", Texts, nullable=False),
    Column("parents", Texts, nullable=False),
    Column("features", Texts, nullable=False),
    Column("dns_suffixes", Texts, nullable=False),
    Column("max_x509_svid_ttl", Duration),
    Column("max_jwt_svid_ttl", Duration),
    Column("expires_at", Instant),
    Column("created_at", Instant, nullable=False),
    Column("created_by", Text, nullable=False),
    Index("administrators_by_spiffe_id", "spiffe_id"),
    info={KIND: "administrators"},
)

agents = Table(
    "agents",
    metadata,
    Column("spiffe_id", Id, primary_key=True),
    Column("attestation_type", Text, nullable=False),
    Column("serial", Text, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("new_serial", Text, nullable=False),
    Column("new_expires_at", Instant),
    Column("selectors", Selectors, nullable=False),
    Column("banned", Boolean, nullable=False),
    Column("can_reattest", Boolean, nullable=False),
    Column("version", Text, nullable=False),
    Column("attested_at", Instant),
    # Of the public keys under serial and new_serial, in hex.
    Column("key_sha256", Text, nullable=False, server_default=""),
    Column("new_key_sha256", Text, nullable=False, server_default=""),
    info={KIND: "agents"},
)

join_tokens = Table(
    "join_tokens",
    metadata,
    Column("sha256", LargeBinary(32), primary_key=True),
    Column("expires_at", Instant, nullable=False),
    Column("agent_id", Id),
    Column("used_at", Instant),
)

authorities = Table(
    "authorities",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("chain", Certificates, nullable=False),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    Column("upstream_authority_id", Text, nullable=False, server_default=""),
    Column("owner", Text, nullable=False, server_default=""),
    info={KIND: "authorities"},
)

jwt_keys = Table(
    "jwt_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    info={KIND: "authorities"},
)

wit_keys = Table(
    "wit_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("key_id", Text, nullable=False),
    Column("public_key", LargeBinary, nullable=False),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    Column("owner", Text, nullable=False, server_default=""),
    info={KIND: "authorities"},
)

published_wit_keys = Table(
    "published_wit_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("publisher", Id, nullable=False),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    info={KIND: "authorities"},
)

upstream_roots = Table(
    "upstream_roots",
    metadata,
    Column("id", Text, primary_key=True),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    info={KIND: "authorities"},
)

published_jwt_keys = Table(
    "published_jwt_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("public_key", LargeBinary, nullable=False),
    Column("publisher", Id, nullable=False),
    Column("state", Choice(AuthorityState), nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant, nullable=False),
    info={KIND: "authorities"},
)

appended_authorities = Table(
    "appended_authorities",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Choice(AppendedKind), nullable=False),
    Column("key_id", Text, nullable=False),
    Column("material", LargeBinary, nullable=False),
    Column("not_before", Instant, nullable=False),
    Column("not_after", Instant),
    info={KIND: "authorities"},
)

bundles = Table(
    "bundles",
    metadata,
    Column("trust_domain", Domain, primary_key=True),
    Column("x509_authorities", Certificates, nullable=False),
    # A text: the standard wants 64 bits without sign, SQL's integers have one.
    Column("sequence", Text, nullable=False),
    Column("refresh_hint", Integer, nullable=False),
    Column("jwt_authorities", JwtAuthorities, nullable=False, server_default="[]"),
    Column("tainted_x509", CertificateSet, nullable=False, server_default="[]"),
    Column("wit_authorities", JwtAuthorities, nullable=False, server_default="[]"),
    info={KIND: "bundle"},
)

relationships = Table(
    "relationships",
    metadata,
    Column("trust_domain", Domain, primary_key=True),
    Column("bundle_endpoint_url", Text, nullable=False),
    Column("endpoint_spiffe_id", Id),
    Column("fetched_at", Instant),
    info={KIND: "relationships"},
)

instances = Table(
    "instances",
    metadata,
    Column("id", Text, primary_key=True),
    Column("service", Text, nullable=False),
    Column("spiffe_id", Id, nullable=False),
    Column("agent_id", Id, nullable=False),
    Column("version", Text, nullable=False),
    Column("ingress", Locations, nullable=False),
    Column("apps", Locations, nullable=False),
    Column("egress", Location),
    Column("upstreams", Locations, nullable=False),
    Column("boundary", Choice(Boundary), nullable=False),
    Column("locality", Text, nullable=False, server_default=""),
    Column("health", Choice(Health), nullable=False, server_default=Health.UNKNOWN.value),
    Column("lease_expires_at", Instant),
    Index("instances_by_lease", "lease_expires_at"),
    info={KIND: "instances"},
)

revocations = Table(
    "revocations",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("issued_before", Instant),
    Column("reason", Choice(Reason), nullable=False),
    Column("note", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("version", BigInteger, nullable=False),
    info={KIND: "revocations"},
)

agent_marks = Table(
    "agent_marks",
    metadata,
    # A text: SQL's integers have a sign.
    Column("mark", Text, primary_key=True),
    Column("agent_id", Id, nullable=False),
    Column("since", Instant, nullable=False),
    Column("retired_at", Instant),
)

lower_authorities = Table(
    "lower_authorities",
    metadata,
    Column("fingerprint", Text, primary_key=True),
    Column("key", Text, nullable=False),
    Column("authority_id", Text, nullable=False),
    Column("server", Id, nullable=False),
    # A text: SQL's integers have a sign.
    Column("mark", Text, nullable=False),
    Column("not_after", Instant, nullable=False),
)

crls = Table(
    "crls",
    metadata,
    Column("authority_id", Text, primary_key=True),
    Column("number", Text, nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("this_update", Instant, nullable=False),
    Column("next_update", Instant, nullable=False),
    Column("list_version", BigInteger, nullable=False),
)

intents = Table(
    "intents",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("version", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("taken_up_at", Instant, nullable=False),
    Column("outcome", Choice(IntentOutcome), nullable=False),
    Column("reason", Text, nullable=False),
    Column("ended_at", Instant),
    Column("commit", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("signed_by", Text, nullable=False),
    Column("committed_at", Instant),
    Column("files", LargeBinary, nullable=False),
    Index("intents_by_version", "version"),
)

emergencies = Table(
    "emergencies",
    metadata,
    Column("id", Text, primary_key=True),
    Column("callers", Texts, nullable=False),
    Column("service", Text, nullable=False),
    Column("port", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("ticket", Text, nullable=False),
    Column("approver", Text, nullable=False),
    Column("opener", Text, nullable=False),
    Column("opened_at", Instant, nullable=False),
    Column("expires_at", Instant, nullable=False),
    Column("closed_at", Instant),
    Column("closed_by", Text, nullable=False),
    Column("uses", BigInteger, nullable=False),
    info={KIND: "emergencies"},
)

# One row: what is being rolled out now.
rollout = Table(
    "rollout",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("revision", Integer, nullable=False),
    Column("document", Text, nullable=False),
    info={KIND: "rollout"},
)

sealed_rows = Table(
    "sealed_rows",
    metadata,
    Column("space", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("key_id", Integer, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Index("sealed_rows_by_key_id", "key_id"),
    info={KIND: "secrets"},
)
