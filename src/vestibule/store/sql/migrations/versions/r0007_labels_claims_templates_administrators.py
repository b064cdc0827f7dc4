"""What entries have beyond SPIRE's: labels, claims, templates; and administrators with bounds."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("disable_x509_svid_prefetch", "jwt_svid_include_jti"):
        op.add_column("entries", sa.Column(name, sa.Boolean, nullable=False, server_default=sa.false()))
    for name, default in (
        ("labels", "[]"),
        ("jwt_claims", ""),
        ("path_template", ""),
        ("dns_templates", "[]"),
        ("template_id", ""),
    ):
        op.add_column("entries", sa.Column(name, sa.Text, nullable=False, server_default=default))
    op.add_column("entries", sa.Column("max_identities", sa.Integer, nullable=False, server_default="0"))
    op.create_index("entries_by_template_id", "entries", ["template_id"])
    op.create_table(
        "administrators",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("spiffe_id", sa.Text, nullable=False),
        sa.Column("powers", sa.Text, nullable=False),
        sa.Column("paths", sa.Text, nullable=False),
        sa.Column("parents", sa.Text, nullable=False),
        sa.Column("features", sa.Text, nullable=False),
        sa.Column("dns_suffixes", sa.Text, nullable=False),
        sa.Column("max_x509_svid_ttl", sa.BigInteger),
        sa.Column("max_jwt_svid_ttl", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", sa.Text, nullable=False),
    )
    op.create_index("administrators_by_spiffe_id", "administrators", ["spiffe_id"])
