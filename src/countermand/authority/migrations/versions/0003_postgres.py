"""Several processes on one Postgres: the step that appends, and who relays."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# Takes, for each entry, its canonical bytes before and after generation and number, and what finds it; gives its
# number, the link before it, and its bytes. Source: docs/protocol.md, "Entry" and "Chain".
_APPEND_ENTRIES = r"""
CREATE FUNCTION append_entries(
    befores bytea[], afters bytea[], kinds smallint[], issuers text[], ids text[],
    expiries bigint[], cutoffs bigint[]
) RETURNS TABLE (entry_seq bigint, entry_previous bytea, entry_data bytea)
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    last head%ROWTYPE;
BEGIN
    SELECT * INTO STRICT last FROM head FOR UPDATE;
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
    op.add_column("heartbeat", sa.Column("relay", sa.String(length=32), nullable=True))
    op.add_column("heartbeat", sa.Column("relay_at_ms", sa.BigInteger(), nullable=True))
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_APPEND_ENTRIES)
