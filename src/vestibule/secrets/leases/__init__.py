"""What is lent for a time: credentials that are made for one caller, and taken away when their time is over."""

from vestibule.secrets.leases.ports import LeasedEngine, NotMadeError, Record
from vestibule.secrets.leases.records import Lane, Lease, LeaseState, path_of
from vestibule.secrets.leases.service import MOST_PER_IDENTITY, Leases, NewLease, prefix_of

__all__ = [
    "MOST_PER_IDENTITY",
    "Lane",
    "Lease",
    "LeaseState",
    "LeasedEngine",
    "Leases",
    "NewLease",
    "NotMadeError",
    "Record",
    "path_of",
    "prefix_of",
]
