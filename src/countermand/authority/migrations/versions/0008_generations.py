"""Generations after the first: how each began, and what made it necessary."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# As in 0003; and it appends nothing behind a head that is disputed.
_APPEND_ENTRIES = r"""
CREATE OR REPLACE FUNCTION append_entries(
    befores bytea[], afters bytea[], kinds smallint[], issuers text[], ids text[],
    expiries bigint[], cutoffs bigint[]
) RETURNS TABLE (entry_seq bigint, entry_previous bytea, entry_data bytea)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    last head%ROWTYPE;
BEGIN
    SELECT * INTO STRICT last FROM head FOR UPDATE;
    IF last.disputed_at_ms IS NOT NULL THEN
        RAISE EXCEPTION 'the head is disputed' USING ERRCODE = 'CM001';
    END IF;
    FOR i IN 1 .. cardinality(ids) LOOP
        last.seq := last.seq + 1;
        entry_seq := last.seq;
        entry_previous := last.link;
        entry_data := befores[i] || int8send(last.generation) || int8send(last.seq) || afters[i];
        last.link := sha256('countermand link v1\012'::bytea || entry_previous || entry_data);
        INSERT INTO entries (
            seq, generation, kind, issuer, id, expires_at_ms, issued_before_ms, previous, link, data
        ) VALUES (
            last.seq, last.generation, kinds[i], issuers[i], ids[i], expiries[i], cutoffs[i],
            entry_previous, last.link, entry_data
        );
        RETURN NEXT;
    END LOOP;
    UPDATE head SET seq = last.seq, link = last.link;
    PERFORM pg_notify('countermand', last.seq::text);
END
$$
"""


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
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_APPEND_ENTRIES)
