"""Keys that are rotated and withdrawn; keysets; what replicas report."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("state", sa.String(length=16), nullable=True),
        sa.Column("since_ms", sa.BigInteger(), nullable=True),
        sa.Column("switch_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("public", sa.LargeBinary(), nullable=True),
    ):
        op.add_column("signing_keys", column)
    op.execute("UPDATE signing_keys SET state = 'active', since_ms = created_at_ms")
    with op.batch_alter_table("signing_keys") as table:
        table.alter_column("state", existing_type=sa.String(length=16), nullable=False)
        table.alter_column("since_ms", existing_type=sa.BigInteger(), nullable=False)
    op.create_table(
        "keysets",
        sa.Column("version", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("version", name=op.f("pk_keysets")),
    )
    op.create_table(
        "replicas",
        sa.Column("key_id", sa.String(length=16), nullable=False),
        sa.Column("replica_id", sa.String(length=64), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("keyset", sa.BigInteger(), nullable=False),
        sa.Column("strict", sa.Boolean(), nullable=False),
        sa.Column("max_staleness_ms", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("reported_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "replica_id", name=op.f("pk_replicas")),
    )
    op.create_index(op.f("ix_replicas_reported_at_ms"), "replicas", ["reported_at_ms"])
