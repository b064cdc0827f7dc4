"""What the server keeps: one small port per aggregate, and SQLite behind them."""

from vestibule.store.changes import Change, Changes, Subscription
from vestibule.store.filters import AgentFilter, EntryFilter, Match
from vestibule.store.ports import (
    Administrators,
    Agents,
    Authorities,
    Bundles,
    Entries,
    Instances,
    IntentHistory,
    JoinTokens,
    Page,
    Relationships,
    SealedRows,
    Store,
)

__all__ = [
    "Administrators",
    "AgentFilter",
    "Agents",
    "Authorities",
    "Bundles",
    "Change",
    "Changes",
    "Entries",
    "EntryFilter",
    "Instances",
    "IntentHistory",
    "JoinTokens",
    "Match",
    "Page",
    "Relationships",
    "SealedRows",
    "Store",
    "Subscription",
]
