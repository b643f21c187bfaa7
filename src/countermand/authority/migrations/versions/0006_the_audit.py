"""Who changed what, and API keys that expire, are revoked, and say when they were used."""

import sqlalchemy as sa
from alembic import op

from countermand.log.audit import audit_genesis
from countermand.log.chain import LogId

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_TEXTS = ("action", "target", "issuer", "reason", "role", "key_id", "application_id", "remote", "request_id")


def upgrade() -> None:
    for name in ("expires_at_ms", "revoked_at_ms", "last_used_at_ms"):
        op.add_column("api_keys", sa.Column(name, sa.BigInteger(), nullable=True))
    op.create_table(
        "audit",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=True),
        *[sa.Column(name, sa.Text(), nullable=False) for name in _TEXTS],
        sa.Column("link", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit")),
    )
    head = op.create_table(
        "audit_head",
        sa.Column("only", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("link", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint('"only" = 1', name=op.f("ck_audit_head_one_row")),
        sa.PrimaryKeyConstraint("only", name=op.f("pk_audit_head")),
    )
    op.create_table(
        "audit_seals",
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("signed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("number", name=op.f("pk_audit_seals")),
    )
    for (log_id,) in op.get_bind().execute(sa.text("SELECT log_id FROM log")).all():
        op.bulk_insert(head, [{"only": 1, "number": 0, "link": audit_genesis(LogId(bytes(log_id)))}])
