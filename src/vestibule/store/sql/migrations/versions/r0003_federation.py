"""Federation relationships."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "relationships",
        sa.Column("trust_domain", sa.Text, primary_key=True),
        sa.Column("bundle_endpoint_url", sa.Text, nullable=False),
        sa.Column("endpoint_spiffe_id", sa.Text),
        sa.Column("fetched_at", sa.BigInteger),
    )
