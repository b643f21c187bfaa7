"""Generations after the first: how each began, and what made it necessary."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("head", sa.Column("disputed_at_ms", sa.BigInteger(), nullable=True))
    op.create_table(
        "successions",
        sa.Column("generation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ended_seq", sa.BigInteger(), nullable=False),
        sa.Column("ended_link", sa.LargeBinary(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("generation", name=op.f("pk_successions")),
    )
    op.create_table(
        "testimonies",
        sa.Column("witness", sa.Text(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.Column("heard_at_ms", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("witness", name=op.f("pk_testimonies")),
    )
