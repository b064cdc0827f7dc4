"""Where instances are, and whether their apps are well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("locality", sa.Text, nullable=False, server_default=""))
    op.add_column("instances", sa.Column("health", sa.Text, nullable=False, server_default="unknown"))
