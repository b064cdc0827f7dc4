"""Which of several servers on one database has an authority's key."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("authorities", "jwt_keys"):
        op.add_column(table, sa.Column("owner", sa.Text, nullable=False, server_default=""))
