"""When a replica first reported the position at which it is."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("replicas", sa.Column("moved_at_ms", sa.BigInteger(), nullable=True))
    op.execute("UPDATE replicas SET moved_at_ms = reported_at_ms")
    with op.batch_alter_table("replicas") as table:
        table.alter_column("moved_at_ms", existing_type=sa.BigInteger(), nullable=False)
