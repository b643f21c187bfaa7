"""Several processes on one Postgres: who relays."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("heartbeat", sa.Column("relay", sa.String(length=32), nullable=True))
    op.add_column("heartbeat", sa.Column("relay_at_ms", sa.BigInteger(), nullable=True))
