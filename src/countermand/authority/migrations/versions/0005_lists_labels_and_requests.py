"""Lists by cursor and filter, labels, and what was answered to requests that come twice."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0003"
branch_labels = None
depends_on = None

_LISTED = (
    ("ix_anchors_kind", ["kind", "number"]),
    ("ix_anchors_application_kind", ["application_id", "kind", "number"]),
    ("ix_anchors_subject_kind", ["subject", "kind", "number"]),
    ("ix_anchors_expires_at_ms", ["expires_at_ms", "number"]),
    *(
        (f"ix_anchors_{name}", [name, "number"])
        for name in ("parent_id", "session_id", "delegation_id", "source_id", "target_id", "grant_id")
    ),
)


def upgrade() -> None:
    op.add_column("anchors", sa.Column("labels", sa.JSON(), nullable=True))
    op.drop_index(op.f("ix_anchors_target_id"), "anchors")
    for name, columns in _LISTED:
        op.create_index(name, "anchors", columns)
    op.create_index("ix_entries_kind", "entries", ["kind", "seq"])
    op.create_index("ix_entries_id", "entries", ["id", "seq"])
    op.create_table(
        "labels",
        sa.Column("label", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.ForeignKeyConstraint(["number"], ["anchors.number"], name=op.f("fk_labels_number")),
        sa.PrimaryKeyConstraint("label", "kind", "number", name=op.f("pk_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index(op.f("ix_labels_number"), "labels", ["number"])
    op.create_table(
        "requests",
        sa.Column("id", sa.LargeBinary(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("attempt", sa.LargeBinary(), nullable=False),
        sa.Column("created_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.SmallInteger(), nullable=True),
        sa.Column("media_type", sa.Text(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_requests")),
    )
    op.create_index(op.f("ix_requests_created_at_ms"), "requests", ["created_at_ms"])
