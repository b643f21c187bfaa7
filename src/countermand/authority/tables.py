"""The authority's tables. A change here comes with a migration; a test compares the two."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts by itself only in a column of this type


def _only() -> Column[int]:
    """Return the key of a table of one row."""
    one_row = CheckConstraint('"only" = 1', name="one_row")
    return Column("only", SmallInteger, one_row, primary_key=True, autoincrement=False)


# Three tables of one row each, because they are locked apart: the log's identity never, the head by every revocation,
# the heartbeat by every checkpoint.
log = Table(
    "log",
    METADATA,
    _only(),
    Column("log_id", LargeBinary, nullable=False),
    Column("longest_mandate_s", Integer, nullable=False),
)
head = Table(
    "head",
    METADATA,
    _only(),
    Column("generation", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("link", LargeBinary, nullable=False),
    Column("disputed_at_ms", BigInteger),
)
heartbeat = Table(
    "heartbeat",
    METADATA,
    _only(),
    Column("at_ms", BigInteger, nullable=False),
    Column("relay", String(32)),  # the process that relays, and when it last said so
    Column("relay_at_ms", BigInteger),
)

# `data` is the entry; the columns beside it are for finding it.
entries = Table(
    "entries",
    METADATA,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    Column("kind", SmallInteger, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("previous", LargeBinary, nullable=False),
    Column("link", LargeBinary, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("issued_before_ms", BigInteger),
    Index("ix_entries_anchor", "id", "kind", "issuer", "issued_before_ms", "seq"),
    Index("ix_entries_kind", "kind", "seq"),
    Index("ix_entries_id", "id", "seq"),
)

# How a generation after the first began; see `log.succession`.
successions = Table(
    "successions",
    METADATA,
    Column("generation", BigInteger, primary_key=True, autoincrement=False),
    Column("ended_seq", BigInteger, nullable=False),
    Column("ended_link", LargeBinary, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
# Checkpoints that contradict the ledger, and who holds them: why the head is disputed.
testimonies = Table(
    "testimonies",
    METADATA,
    Column("witness", Text, primary_key=True),
    Column("signed", LargeBinary, nullable=False),
    Column("heard_at_ms", BigInteger, nullable=False),
)

# Everything of our own making that a path may name, in one table: it is locked, checked, revoked and counted alike.
# `number` counts in the order of creation, so an ancestor's is below its descendants'. Which columns a kind has:
#   application  name
#   session      application_id, parent_id, subject, subject_type
#   agent        application_id, parent_id, session_id, delegation_id, name
#   grant        application_id, subject, scopes, audience, closed_at_ms
#   delegation   application_id (its source's), parent_id, source_id, target_id, grant_id, scopes, audience, depth
anchors = Table(
    "anchors",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(36), nullable=False, unique=True),
    Column("kind", SmallInteger, nullable=False),
    Column("application_id", String(36), ForeignKey("anchors.id"), index=True),
    Column("parent_id", String(36), ForeignKey("anchors.id")),
    Column("session_id", String(36), ForeignKey("anchors.id")),
    Column("delegation_id", String(36), ForeignKey("anchors.id")),
    Column("source_id", String(36), ForeignKey("anchors.id")),
    Column("target_id", String(36), ForeignKey("anchors.id")),
    Column("grant_id", String(36), ForeignKey("anchors.id")),
    Column("name", Text),
    Column("subject", Text),
    Column("subject_type", String(16)),
    Column("scopes", JSON(none_as_null=True)),
    Column("audience", JSON(none_as_null=True)),
    Column("depth", Integer),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("opened_seq", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("closed_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("labels", JSON(none_as_null=True)),
    Index("ix_anchors_subject", "subject", "application_id", "kind"),
    # every list has an index that gives its order, newest first
    Index("ix_anchors_kind", "kind", "number"),
    Index("ix_anchors_application_kind", "application_id", "kind", "number"),
    Index("ix_anchors_subject_kind", "subject", "kind", "number"),
    *(
        Index(f"ix_anchors_{name}", name, "number")
        for name in ("parent_id", "session_id", "delegation_id", "source_id", "target_id", "grant_id")
    ),
    Index("ix_anchors_expires_at_ms", "expires_at_ms", "number"),
)
# The labels of `anchors`, to find them by.
labels = Table(
    "labels",
    METADATA,
    Column("label", String(64), primary_key=True),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("number", BigInteger, ForeignKey("anchors.number"), primary_key=True, autoincrement=False, index=True),
    sqlite_with_rowid=False,
)
# Who rests on whom, through every step between: itself, too. By numbers; a path's length bounds the rows of one anchor.
lineage = Table(
    "lineage",
    METADATA,
    Column("ancestor", BigInteger, ForeignKey("anchors.number"), primary_key=True, autoincrement=False),
    Column("descendant", BigInteger, ForeignKey("anchors.number"), primary_key=True, autoincrement=False),
    Index("ix_lineage_descendant", "descendant", "ancestor"),
    sqlite_with_rowid=False,  # the two numbers are the row
)
# For verifiers that check four anchors and no path: whose descendants are still to be told, and how far that has come.
cascades = Table(
    "cascades",
    METADATA,
    Column("number", BigInteger, ForeignKey("anchors.number"), primary_key=True, autoincrement=False),
    Column("told", BigInteger, nullable=False),
    Column("finished_at_ms", BigInteger),
    Index("ix_cascades_open", "finished_at_ms", "number"),
)

# The ids of Biscuits that applications have said they issued, so that what ends a session, an application or a subject
# ends them too. `number` counts in the order in which they were registered.
biscuits = Table(
    "biscuits",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("id", String(144), nullable=False, unique=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Index("ix_biscuits_expires_at_ms", "expires_at_ms", "number"),
)
# By what each is ended: every session above it, its applications and its subjects, as `kind:id`. An anchor that is
# revoked finds them with one look, however much else rests on it.
biscuit_anchors = Table(
    "biscuit_anchors",
    METADATA,
    Column("anchor", Text, primary_key=True),
    Column("number", BigInteger, ForeignKey("biscuits.number"), primary_key=True, autoincrement=False, index=True),
    sqlite_with_rowid=False,
)
# What a revocation could not end in its own transaction, for there were too many: those of `anchor` after number `done`
# up to `through`; of a dated cutoff, those that were registered by `before_ms`.
biscuit_jobs = Table(
    "biscuit_jobs",
    METADATA,
    Column("number", _NUMBER, primary_key=True, autoincrement=True),
    Column("anchor", Text, nullable=False, index=True),
    Column("done", BigInteger, nullable=False),
    Column("through", BigInteger, nullable=False),
    Column("before_ms", BigInteger),
    Column("reason", Text, nullable=False),
    Column("touched_at_ms", BigInteger, nullable=False),
)

api_keys = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("application_id", String(36)),
    Column("expires_at_ms", BigInteger),
    Column("revoked_at_ms", BigInteger),
    Column("last_used_at_ms", BigInteger),
)
# The register of what we sign with. The private halves are files in the keys directory of each process; the public one,
# as SubjectPublicKeyInfo, is here for those that have no such file. `switch_at_ms`: the next key signs no sooner.
signing_keys = Table(
    "signing_keys",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("since_ms", BigInteger, nullable=False),
    Column("switch_at_ms", BigInteger),
    Column("public", LargeBinary),
)
# Every keyset of checkpoint keys that there ever was, signed: a replica follows them from its pin on.
keysets = Table(
    "keysets",
    METADATA,
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)
# What replicas have last reported, by the key that they call with; `moved_at_ms`: the first time from that position.
replicas = Table(
    "replicas",
    METADATA,
    Column("key_id", String(16), primary_key=True),
    Column("replica_id", String(64), primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("keyset", BigInteger, nullable=False),
    Column("strict", Boolean, nullable=False),
    Column("max_staleness_ms", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("reported_at_ms", BigInteger, nullable=False, index=True),
    Column("moved_at_ms", BigInteger, nullable=False),
)
# Requests that carried an Idempotency-Key and changed something; `body` is the answer, where it may be kept.
requests = Table(
    "requests",
    METADATA,
    Column("id", LargeBinary, primary_key=True),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("attempt", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False, index=True),
    Column("status", SmallInteger),
    Column("media_type", Text),
    Column("body", LargeBinary),
)

# Who changed what. Nothing here is ever changed or cleaned away: `link` chains each row to the one before. Which column
# means what: `countermand.log.audit.AuditRow`.
audit = Table(
    "audit",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("seq", BigInteger),
    Column("action", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("issuer", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("role", Text, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("application_id", Text, nullable=False),
    Column("remote", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("link", LargeBinary, nullable=False),
)
# Locked by every change, last of all.
audit_head = Table(
    "audit_head",
    METADATA,
    _only(),
    Column("number", BigInteger, nullable=False),
    Column("link", LargeBinary, nullable=False),
)
# Checkpoints that sign the audit's link after row `number`.
audit_seals = Table(
    "audit_seals",
    METADATA,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("signed", LargeBinary, nullable=False),
)
