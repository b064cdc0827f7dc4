"""The public keys of agents' SVIDs, by which they return."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """From 0005."""
    for name in ("key_sha256", "new_key_sha256"):
        op.add_column("agents", sa.Column(name, sa.Text, nullable=False, server_default=""))
