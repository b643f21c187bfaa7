"""The authority's tables. A change here comes with a migration; a test compares the two."""

from sqlalchemy import (
    BigInteger,
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

# Three tables of one row each, because they are locked apart: the log's identity never, the head by every revocation,
# the heartbeat by every checkpoint.
log = Table(
    "log",
    METADATA,
    Column("only", SmallInteger, CheckConstraint("only = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("log_id", LargeBinary, nullable=False),
    Column("longest_mandate_s", Integer, nullable=False),
)
head = Table(
    "head",
    METADATA,
    Column("only", SmallInteger, CheckConstraint("only = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("generation", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("link", LargeBinary, nullable=False),
)
heartbeat = Table(
    "heartbeat",
    METADATA,
    Column("only", SmallInteger, CheckConstraint("only = 1", name="one_row"), primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
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
    Index("ix_entries_anchor", "id", "kind", "issuer"),
)

applications = Table(
    "applications",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
sessions = Table(
    "sessions",
    METADATA,
    Column("id", String(36), primary_key=True),
    Column("subject", Text, nullable=False, index=True),
    Column("subject_type", String(16), nullable=False),
    Column("application_id", String(36), ForeignKey("applications.id"), nullable=False, index=True),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("expires_at_ms", BigInteger, nullable=False),
    Column("revoked_at_ms", BigInteger),
)

api_keys = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
signing_keys = Table(
    "signing_keys",
    METADATA,
    Column("id", String(64), primary_key=True),
    Column("purpose", String(16), nullable=False),
    Column("algorithm", String(16), nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
)
