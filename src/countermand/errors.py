"""One tree of errors; every class has a stable snake_case code.

    CountermandError
    ├─ ConfigurationError            what was configured cannot work
    ├─ InvalidValueError             an argument out of its range (also a ValueError)
    ├─ LogError                      a record of the log was refused
    │  ├─ MalformedError             bytes that are no record
    │  ├─ UnknownVersionError        a record of a version we do not know
    │  ├─ UnknownKindError           an entry of a kind we do not know
    │  ├─ WrongLogError              a record of another log
    │  ├─ UnknownKeyError            signed by a key that is not pinned
    │  ├─ BadSignatureError          the signature does not hold
    │  ├─ KeysetError                a keyset that is not the next one
    │  ├─ GenerationError            a generation that no succession leads to
    │  ├─ RollbackError              older than what is applied
    │  ├─ ForkError                  another history than the one applied
    │  ├─ GapError                   entries are missing
    │  ├─ ForgedEntryError           no candidate hashes to what the checkpoint signed
    │  ├─ BacklogError               more uncovered entries than we hold
    │  ├─ SnapshotMismatchError      a snapshot's body is not the one its header signs
    │  ├─ PostdatedError             a snapshot from the future
    │  └─ AuditError                 rows of the audit were tampered with
    ├─ TokenError                    a token was refused
    │  ├─ MalformedTokenError        not a token of ours
    │  ├─ BadTokenSignatureError     the signature or its algorithm does not hold
    │  ├─ UnknownTokenKeyError       no key has the id it names
    │  ├─ UnsupportedTokenError      of a kind that cannot be verified here (RFC 7009)
    │  ├─ WrongIssuerError
    │  ├─ WrongAudienceError
    │  └─ ExpiredTokenError          outside its time
    ├─ KeysError                     the keys of an issuer cannot be had
    │  └─ MalformedKeysError         not a JSON Web Key Set
    ├─ DeniedError                   how an app that is a framework's hears that the guard denied
    ├─ StoreError
    │  ├─ StoreFullError             the bound is reached, and nothing may be evicted
    │  └─ ReadOnlyStoreError         this store only answers
    ├─ TransportError                the authority did not give a usable answer
    │  ├─ UnreachableError           no answer, or none in time
    │  ├─ RefusedError               the credential was refused
    │  └─ BadAnswerError             an answer that we cannot use
    └─ AuthorityError                the authority refuses
       ├─ NotFoundError              no such thing
       ├─ NotActiveError             it exists, and its authority has ended
       ├─ InProgressError            the same request is being answered
       ├─ AlreadyDoneError           the same request was done, and its answer is not kept
       ├─ KeyReusedError             another request came with the same idempotency key
       ├─ ExceededError              more is asked for than there is to give
       │  ├─ InvalidScopeError       a scope that was not given (RFC 6749)
       │  └─ InvalidTargetError      an audience that was not given (RFC 8707)
       ├─ UnauthenticatedError       no valid credential
       ├─ ForbiddenError             a valid credential without the role
       ├─ LastKeyError               without this key nobody could administer any more
       ├─ ClockError                 our clocks contradict each other: nothing is signed
       ├─ DisputedError              a witness knows another ledger than ours: nothing is signed
       ├─ DataError                  the data directory or the database cannot be used as it is
       │  └─ SecretFileError         a file of the authority's own is missing, or is not as it should be
       ├─ BusyError                  too much at once: try again
       └─ UnconfirmedError           it may be done, and that is not certain

A denial is a value and not in this tree: see `countermand.enforce`. Only where a framework stands between who asks and
who answers, an error carries it.
"""

from typing import ClassVar


class CountermandError(Exception):
    """Everything this package raises by its own decision."""

    code: ClassVar[str] = "error"

    @property
    def told(self) -> str:
        """What a caller from outside hears of it."""
        return str(self)


class ConfigurationError(CountermandError):
    """What was configured cannot work; raised when it is configured, not when it is used."""

    code = "configuration"


class InvalidValueError(CountermandError, ValueError):
    """An argument is out of its range."""

    code = "invalid_value"


class LogError(CountermandError):
    """A record of the log was refused."""

    code = "log"


class MalformedError(LogError):
    """The bytes are no record of this kind."""

    code = "malformed_record"


class UnknownVersionError(LogError):
    """A record of a version that this program does not know; it needs a newer one."""

    code = "unknown_version"


class UnknownKindError(LogError):
    """An entry of a kind that this program does not know; it needs a newer one."""

    code = "unknown_kind"


class WrongLogError(LogError):
    """A record of another log than the pinned one."""

    code = "wrong_log"


class UnknownKeyError(LogError):
    """No pinned key has the id that the record names."""

    code = "unknown_key"


class KeysetError(LogError):
    """The keyset is not the one after the keyset that is held."""

    code = "wrong_keyset"


class BadSignatureError(LogError):
    """The key, or any byte, is not the one that was signed."""

    code = "bad_signature"


class GenerationError(LogError):
    """The record is of a generation to which no succession, with its snapshot, has led yet."""

    code = "wrong_generation"


class RollbackError(LogError):
    """The record is older than what is applied already."""

    code = "rollback"


class ForkError(LogError):
    """The authority signed another history than the one applied here."""

    code = "fork"


class GapError(LogError):
    """Entries `first` to `last` of a signed checkpoint have not arrived."""

    code = "gap"

    def __init__(self, first: int, last: int) -> None:
        super().__init__(f"entries {first} to {last} have not arrived")
        self.first = first
        self.last = last


class ForgedEntryError(LogError):
    """No candidate for `seq` hashes to what the checkpoint signed."""

    code = "forged_entry"

    def __init__(self, seq: int) -> None:
        super().__init__(f"no candidate for entry {seq} is the one that was signed")
        self.seq = seq


class BacklogError(LogError):
    """More entries wait for a checkpoint than are held: start again from a snapshot."""

    code = "backlog"


class SnapshotMismatchError(LogError):
    """The snapshot's body is not the one that its header signs."""

    code = "snapshot_mismatch"


class PostdatedError(LogError):
    """The snapshot is of a time to come, and may leave out what has not expired yet."""

    code = "postdated"


class AuditError(LogError):
    """Row `number` of the audit is not what was written there, or is gone."""

    code = "audit"

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"row {number} of the audit {what}")
        self.number = number


class TokenError(CountermandError):
    """A token was refused."""

    code = "invalid_token"


class MalformedTokenError(TokenError):
    """The text is not a token that we could accept."""

    code = "malformed_token"


class BadTokenSignatureError(TokenError):
    """The signature does not hold, or its algorithm is not allowed."""

    code = "bad_token_signature"


class UnknownTokenKeyError(TokenError):
    """No key of the issuer has the id that the token names."""

    code = "unknown_token_key"


class UnsupportedTokenError(TokenError):
    """No token of this kind can be verified here."""

    code = "unsupported_token_type"


class WrongIssuerError(TokenError):
    """The token was issued by someone else."""

    code = "wrong_issuer"


class WrongAudienceError(TokenError):
    """The token is meant for someone else."""

    code = "wrong_audience"


class ExpiredTokenError(TokenError):
    """The token is outside its time: expired, or issued in the future."""

    code = "expired_token"


class KeysError(CountermandError):
    """The keys of an issuer cannot be had."""

    code = "keys_unavailable"


class MalformedKeysError(KeysError):
    """The bytes are not a JSON Web Key Set that we could use."""

    code = "malformed_keys"


class DeniedError(CountermandError):
    """The guard denied what an app asked about its request. `denial` says why, and has been answered."""

    code = "denied"

    def __init__(self, denial: object) -> None:
        super().__init__("the guard denied the request")
        self.denial = denial


class StoreError(CountermandError):
    """A revocation store refused."""

    code = "store"


class StoreFullError(StoreError):
    """The store holds as many live entries as it may, and dropping one would un-revoke it."""

    code = "store_full"


class ReadOnlyStoreError(StoreError):
    """This store only answers; revocations reach it another way."""

    code = "read_only_store"


class TransportError(CountermandError):
    """The authority did not give a usable answer."""

    code = "transport"


class UnreachableError(TransportError):
    """No answer, or none in time."""

    code = "unreachable"


class RefusedError(TransportError):
    """The authority refused the credential."""

    code = "refused"


class BadAnswerError(TransportError):
    """The answer is too large, of the wrong type, or not what was asked for."""

    code = "bad_answer"


class AuthorityError(CountermandError):
    """The authority refuses."""

    code = "authority"


class NotFoundError(AuthorityError):
    """There is no such thing."""

    code = "not_found"


class NotActiveError(AuthorityError):
    """It exists, and its authority has ended."""

    code = "not_active"


class InProgressError(AuthorityError):
    """The same request is being answered: ask again, and its answer will be there."""

    code = "in_progress"


class AlreadyDoneError(AuthorityError):
    """The same request was done before, and its answer is not kept; it is not done again."""

    code = "already_done"


class KeyReusedError(AuthorityError):
    """Another request came with the same idempotency key before."""

    code = "idempotency_key_reused"


class ExceededError(AuthorityError):
    """More is asked for than there is to give: authority only narrows."""

    code = "exceeds_authority"


class InvalidScopeError(ExceededError):
    """A scope is asked for that was not given."""

    code = "invalid_scope"


class InvalidTargetError(ExceededError):
    """An audience is asked for that was not given."""

    code = "invalid_target"


class UnauthenticatedError(AuthorityError):
    """No valid credential came with the request."""

    code = "unauthenticated"


class ForbiddenError(AuthorityError):
    """The credential is valid and does not have the role."""

    code = "forbidden"


class LastKeyError(AuthorityError):
    """Without this key nobody could administer the authority any more."""

    code = "last_key"


class ClockError(AuthorityError):
    """Our clocks contradict each other, so nothing is signed."""

    code = "clock"


class DisputedError(AuthorityError):
    """A witness has seen more of this log than the ledger holds, or another history: nothing is signed."""

    code = "disputed"

    def __init__(self) -> None:
        super().__init__(
            "witnesses know another ledger than this one: nothing is signed until `countermand ledger recover` mends it"
        )


class DataError(AuthorityError):
    """The data directory or the database cannot be used as it is."""

    code = "data"


class SecretFileError(DataError):
    """A file of the authority's own is missing, or is not as it should be. Its words say where: callers hear others."""

    @property
    def told(self) -> str:
        """See CountermandError."""
        return "the authority lacks a key of its own: its log says which"


class BusyError(AuthorityError):
    """Too much at once; nothing was changed, and trying again may help."""

    code = "busy"


class UnconfirmedError(AuthorityError):
    """The database did not confirm it: it may be done, or not. Trying again does it, or finds it done."""

    code = "unconfirmed"
