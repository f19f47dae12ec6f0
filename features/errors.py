"""Every error that Fraudline raises on purpose.

    FraudlineError                  the root: its text is one plain sentence that says what, where and what to do
    ├── ConfigError                 a setting, a command-line argument or an input file can't be used
    ├── BundleError                 a model bundle is missing, damaged, tampered with or does not fit this catalog
    ├── RegistryUnavailable         the registry of models can't be read or written now
    ├── InputUnusable               so many records in a row are no payments that something is wrong with all of them
    ├── StoreError                  the state store
    │   ├── StoreUnavailable        it did not answer in time or can't be reached; the call may or may not have applied
    │   ├── StoreUnsuitable         it answers, but is set up so that state could be lost or read stale
    │   ├── StateBehind             its marker is below the batch's start: payments are missing from the logs
    │   └── StateAhead              its marker is above the end of the log: the topic was recreated
    └── KafkaError                  the broker
        ├── KafkaUnavailable        it can't be reached, or a topic is missing
        │   └── KafkaRefused        it does not trust us, or we it, or an ACL is missing: no retry mends that
        ├── TransactionAborted      the transaction was aborted; rewind to the committed offsets and go on
        ├── ProducerLost            the outcome of a transaction is unknown; a new producer is needed
        └── Fenced                  another processor has taken this one's transactional id

Outcomes that are expected are values instead: a payment that can't be decided is a `Rejected`.
"""

from __future__ import annotations


class FraudlineError(Exception):
    """The root: its text is one plain sentence that says what, where and what to do."""


class ConfigError(FraudlineError):
    """A setting, a command-line argument or an input file can't be used."""


class BundleError(FraudlineError):
    """A model bundle is missing, damaged, tampered with or does not fit this catalog."""


class RegistryUnavailable(FraudlineError):
    """The registry of models can't be read or written now."""


class InputUnusable(FraudlineError):
    """So many records in a row are no payments that something is wrong with all of them."""


class StoreError(FraudlineError):
    """The state store failed."""


class StoreUnavailable(StoreError):
    """The store did not answer in time or can't be reached; the call may or may not have been applied."""


class StoreUnsuitable(StoreError):
    """The store answers, but is set up so that state could be lost or read stale."""


class StateBehind(StoreError):
    """The store's marker is below the batch's start, or its epoch is another: payments are missing from the logs."""


class StateAhead(StoreError):
    """The store's marker is above the end of the log: the topic was recreated."""


class KafkaError(FraudlineError):
    """The broker failed."""


class KafkaUnavailable(KafkaError):
    """The broker can't be reached, or a topic is missing."""


class KafkaRefused(KafkaUnavailable):
    """The broker does not trust us, or we do not trust it, or an ACL is missing: no retry mends that."""


class TransactionAborted(KafkaError):
    """The transaction was aborted; rewind to the committed offsets and go on."""


class ProducerLost(KafkaError):
    """The outcome of a transaction is unknown; a new producer is needed."""


class Fenced(KafkaError):
    """Another processor has taken this one's transactional id."""
