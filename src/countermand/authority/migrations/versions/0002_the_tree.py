"""The tree: one table for every anchor of our own making, and who rests on whom.

Applications and sessions move there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LINKS = ("application_id", "parent_id", "session_id", "delegation_id", "source_id", "target_id", "grant_id")


def upgrade() -> None:
    _make()
    _move()
    op.drop_table("sessions")
    op.drop_table("applications")
    op.add_column("api_keys", sa.Column("application_id", sa.String(length=36), nullable=True))
    op.add_column("entries", sa.Column("issued_before_ms", sa.BigInteger(), nullable=True))
    op.drop_index("ix_entries_anchor", "entries")
    op.create_index("ix_entries_anchor", "entries", ["id", "kind", "issuer", "issued_before_ms", "seq"])


def _make() -> None:
    op.create_table(
        "anchors",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("id", sa.String(length=36), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        *[sa.Column(name, sa.String(length=36), nullable=True) for name in _LINKS],
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("subject_type", sa.String(length=16), nullable=True),
        sa.Column("scopes", sa.JSON(), nullable=True),
        sa.Column("audience", sa.JSON(), nullable=True),
        sa.Column("depth", sa.Integer(), nullable=True),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("opened_seq", sa.BigInteger(), nullable=False),
        sa.Column("expires_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("closed_at_ms", sa.BigInteger(), nullable=True),
        sa.Column("revoked_at_ms", sa.BigInteger(), nullable=True),
        *[sa.ForeignKeyConstraint([name], ["anchors.id"], name=op.f(f"fk_anchors_{name}")) for name in _LINKS],
        sa.PrimaryKeyConstraint("number", name=op.f("pk_anchors")),
        sa.UniqueConstraint("id", name=op.f("uq_anchors_id")),
    )
    op.create_index("ix_anchors_subject", "anchors", ["subject", "application_id", "kind"])
    for name in ("application_id", "target_id"):
        op.create_index(op.f(f"ix_anchors_{name}"), "anchors", [name])
    op.create_table(
        "lineage",
        sa.Column("ancestor", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("descendant", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["ancestor"], ["anchors.number"], name=op.f("fk_lineage_ancestor")),
        sa.ForeignKeyConstraint(["descendant"], ["anchors.number"], name=op.f("fk_lineage_descendant")),
        sa.PrimaryKeyConstraint("ancestor", "descendant", name=op.f("pk_lineage")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_lineage_descendant", "lineage", ["descendant", "ancestor"])
    op.create_table(
        "cascades",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("told", sa.BigInteger(), nullable=False),
        sa.Column("finished_at_ms", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["number"], ["anchors.number"], name=op.f("fk_cascades_number")),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_cascades")),
    )
    op.create_index("ix_cascades_open", "cascades", ["finished_at_ms", "number"])


def _move() -> None:
    """Every session was opened before any cutoff: there were none. Ended ones have nothing left to tell."""
    op.execute(
        "INSERT INTO anchors (id, kind, name, created_at_ms, opened_seq) "
        "SELECT id, 7, name, created_at_ms, 0 FROM applications ORDER BY created_at_ms, id"
    )
    op.execute(
        "INSERT INTO anchors (id, kind, application_id, subject, subject_type, created_at_ms, opened_seq, "
        "expires_at_ms, revoked_at_ms) SELECT id, 1, application_id, subject, subject_type, created_at_ms, 0, "
        "expires_at_ms, revoked_at_ms FROM sessions ORDER BY created_at_ms, id"
    )
    op.execute("INSERT INTO lineage (ancestor, descendant) SELECT number, number FROM anchors")
    op.execute(
        "INSERT INTO lineage (ancestor, descendant) "
        "SELECT application.number, session.number FROM anchors AS session "
        "JOIN anchors AS application ON application.id = session.application_id"
    )
