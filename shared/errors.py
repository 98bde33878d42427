"""Errors that cross rooms, named by what the caller must do about them."""


class CorreioError(Exception):
    """Base of every error that Correio raises on purpose."""


class ConfigError(CorreioError):
    """The configuration cannot be used; the message names the field, its source and the remedy."""


class BrokerUnavailableError(CorreioError):
    """The broker cannot be reached or did not answer in time: wait, then try again."""


class UnroutableError(CorreioError):
    """The broker returned a message because no queue takes it: the topology is not in place."""


class RejectedError(CorreioError):
    """The broker refused responsibility for a message (nack), for example at a length limit."""


class StoreUnavailableError(CorreioError):
    """The store is unreachable, locked or full: pause, nothing is wrong with the data."""


class StoreConflictError(CorreioError):
    """Another writer got in between: run the same transaction again from its start."""


class SchemaError(CorreioError):
    """The store's schema is not the one this release was written for: run ``correio migrate``."""


class SpoolFullError(CorreioError):
    """The spool has reached its bound in bytes or the disk its floor: answer 503."""


class TopologyError(CorreioError):
    """A queue or exchange is missing, differs from what this release declares, or is forbidden."""


class StoreDamagedError(CorreioError):
    """A database file is not what it should be: torn, overwritten, or no database at all."""


class SealingKeyError(StoreUnavailableError):
    """A key that sealed what is stored is not configured: pause until it is."""


class SealBrokenError(CorreioError):
    """Something sealed does not open by its key: it was changed, or its key destroyed."""


STORE_AWAY = (StoreUnavailableError, StoreDamagedError)
"""The store cannot work, whatever it is asked: pause until somebody has mended it."""

TRANSIENT = (*STORE_AWAY, StoreConflictError)
"""No fault of what was asked: ask again later."""
