"""Biscuits that applications register, by what each is ended, and what is still to be ended of them."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "biscuits",
        sa.Column("number", number, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=144), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_biscuits")),
        sa.UniqueConstraint("id", name=op.f("uq_biscuits_id")),
    )
    op.create_index("ix_biscuits_expires_at_ms", "biscuits", ["expires_at_ms", "number"])
    op.create_table(
        "biscuit_anchors",
        sa.Column("anchor", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["number"], ["biscuits.number"], name=op.f("fk_biscuit_anchors_number")),
        sa.PrimaryKeyConstraint("anchor", "number", name=op.f("pk_biscuit_anchors")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_biscuit_anchors_number", "biscuit_anchors", ["number"])
    op.create_table(
        "biscuit_jobs",
        sa.Column("number", number, autoincrement=True, nullable=False),
        sa.Column("anchor", sa.Text(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("through", sa.BigInteger(), nullable=False),
        sa.Column("before_ms", sa.BigInteger(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("touched_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_biscuit_jobs")),
    )
    op.create_index("ix_biscuit_jobs_anchor", "biscuit_jobs", ["anchor"])
