"""The step that ends a change on Postgres: what it appends to the audit and to the ledger."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

# Takes who acts; for each act when it was done, what finds it, and the texts of its row in canonical bytes; and for an
# act that makes an entry that one's canonical bytes before and after generation and number, and what finds it besides.
# Gives for each the entry's number, the link before it and its bytes, if there is one; and the row's number and link.
# Whoever locks both heads locks the ledger's first. Source: docs/protocol.md, "Entry", "Chain" and "Audit".
_APPEND_CHANGES = r"""
CREATE FUNCTION append_changes(
    actor text[], times bigint[], actions text[], targets text[], issuers text[], reasons text[], texts bytea[],
    befores bytea[], afters bytea[], kinds smallint[], expiries bigint[], cutoffs bigint[]
) RETURNS TABLE (
    entry_seq bigint, entry_previous bytea, entry_data bytea, audit_number bigint, audit_link bytea
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    revokes boolean := num_nonnulls(VARIADIC befores) > 0;
    last head%ROWTYPE;
    audited audit_head%ROWTYPE;
BEGIN
    IF revokes THEN
        SELECT * INTO STRICT last FROM head FOR UPDATE;
        IF last.disputed_at_ms IS NOT NULL THEN
            RAISE EXCEPTION 'the head is disputed' USING ERRCODE = 'CM001';
        END IF;
    END IF;
    SELECT * INTO STRICT audited FROM audit_head FOR UPDATE;
    FOR i IN 1 .. cardinality(actions) LOOP
        entry_seq := NULL;
        entry_previous := NULL;
        entry_data := NULL;
        IF befores[i] IS NOT NULL THEN
            last.seq := last.seq + 1;
            entry_seq := last.seq;
            entry_previous := last.link;
            entry_data := befores[i] || int8send(last.generation) || int8send(last.seq) || afters[i];
            last.link := sha256('countermand link v1\012'::bytea || entry_previous || entry_data);
            INSERT INTO entries (
                seq, generation, kind, issuer, id, expires_at_ms, issued_before_ms, previous, link, data
            ) VALUES (
                last.seq, last.generation, kinds[i], issuers[i], targets[i], expiries[i], cutoffs[i],
                entry_previous, last.link, entry_data
            );
        END IF;
        audited.number := audited.number + 1;
        audited.link := sha256(
            'countermand audit link v1\012'::bytea || audited.link || '\001'::bytea
            || int8send(audited.number) || int8send(times[i]) || int8send(coalesce(entry_seq, 0)) || texts[i]
        );
        INSERT INTO audit (
            number, at_ms, seq, action, target, issuer, reason,
            role, key_id, application_id, remote, request_id, link
        ) VALUES (
            audited.number, times[i], entry_seq, actions[i], targets[i], issuers[i], reasons[i],
            actor[1], actor[2], actor[3], actor[4], actor[5], audited.link
        );
        audit_number := audited.number;
        audit_link := audited.link;
        RETURN NEXT;
    END LOOP;
    UPDATE audit_head SET number = audited.number, link = audited.link;
    IF revokes THEN
        UPDATE head SET seq = last.seq, link = last.link;
        PERFORM pg_notify('countermand', last.seq::text);
    END IF;
END
$$
"""


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.execute(_APPEND_CHANGES)
