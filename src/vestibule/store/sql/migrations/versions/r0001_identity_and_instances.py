"""Identity (entries, agents, join tokens, authorities, bundles) and the mesh's instances."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "entries",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("similarity", sa.LargeBinary(32), nullable=False, unique=True),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("parent_id", sa.Text, nullable=False),
        sa.Column("selectors", sa.Text, nullable=False),
        sa.Column("x509_svid_ttl", sa.BigInteger),
        sa.Column("jwt_svid_ttl", sa.BigInteger),
        sa.Column("federates_with", sa.Text, nullable=False),
        sa.Column("admin", sa.Boolean, nullable=False),
        sa.Column("downstream", sa.Boolean, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("dns_names", sa.Text, nullable=False),
        sa.Column("revision", sa.Integer, nullable=False),
        sa.Column("store_svid", sa.Boolean, nullable=False),
        sa.Column("hint", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("entries_by_spiffe_id", "entries", ["spiffe_id"])
    op.create_index("entries_by_parent_id", "entries", ["parent_id"])
    op.create_table(
        "agents",
        sa.Column("spiffe_id", sa.Text, primary_key=True),
        sa.Column("attestation_type", sa.Text, nullable=False),
        sa.Column("serial", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("new_serial", sa.Text, nullable=False),
        sa.Column("new_expires_at", sa.BigInteger),
        sa.Column("selectors", sa.Text, nullable=False),
        sa.Column("banned", sa.Boolean, nullable=False),
        sa.Column("can_reattest", sa.Boolean, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("attested_at", sa.BigInteger),
    )
    op.create_table(
        "join_tokens",
        sa.Column("sha256", sa.LargeBinary(32), primary_key=True),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("agent_id", sa.Text),
        sa.Column("used_at", sa.BigInteger),
    )
    op.create_table(
        "authorities",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, nullable=False),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "bundles",
        sa.Column("trust_domain", sa.Text, primary_key=True),
        sa.Column("x509_authorities", sa.Text, nullable=False),
        sa.Column("sequence", sa.Text, nullable=False),
        sa.Column("refresh_hint", sa.Integer, nullable=False),
    )
    op.create_table(
        "instances",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("service", sa.Text, nullable=False),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("agent_id", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("ingress", sa.Text, nullable=False),
        sa.Column("apps", sa.Text, nullable=False),
        sa.Column("egress", sa.Text),
        sa.Column("upstreams", sa.Text, nullable=False),
        sa.Column("boundary", sa.Text, nullable=False),
        sa.Column("lease_expires_at", sa.BigInteger),
    )
    op.create_index("instances_by_lease", "instances", ["lease_expires_at"])
