"""Signing certificates that servers below were given."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "lower_authorities",
        sa.Column("fingerprint", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("authority_id", sa.Text, nullable=False),
        sa.Column("server", sa.Text, nullable=False),
        sa.Column("mark", sa.Text, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
    )
