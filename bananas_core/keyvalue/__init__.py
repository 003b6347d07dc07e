"""A complete ledger on any store that has compare-and-set: see ``store.py`` for what it must do."""

from bananas_core.keyvalue.backend import KeyValueBackend
from bananas_core.keyvalue.store import Change, Entry, KeyValueStore, StoreCapabilities

__all__ = ["Change", "Entry", "KeyValueBackend", "KeyValueStore", "StoreCapabilities"]
