"""Child processes: started, watched, restarted, drained and stopped, with nothing left behind.

``Ledger`` owns a private directory and starts children from it; ``Supervised`` keeps one of them running;
``sweep`` cleans up after supervisors that were killed.
"""

from vestibule.processes.backoff import Backoff
from vestibule.processes.child import Child, Command, ended_how, secret_descriptor
from vestibule.processes.directories import private_directory
from vestibule.processes.ledger import LINEAGE, Ledger, sweep
from vestibule.processes.output import BoundedFile, Capture
from vestibule.processes.ports import Reservation, claim, reserve, reserve_preferably, retake
from vestibule.processes.signals import Shutdown
from vestibule.processes.supervised import (
    Probe,
    ReadyLine,
    Restart,
    Spec,
    State,
    Supervised,
    stop_in_order,
    wait_ready,
)
from vestibule.processes.users import User, find_user

__all__ = [
    "LINEAGE",
    "Backoff",
    "BoundedFile",
    "Capture",
    "Child",
    "Command",
    "Ledger",
    "Probe",
    "ReadyLine",
    "Reservation",
    "Restart",
    "Shutdown",
    "Spec",
    "State",
    "Supervised",
    "User",
    "claim",
    "ended_how",
    "find_user",
    "private_directory",
    "reserve",
    "reserve_preferably",
    "retake",
    "secret_descriptor",
    "stop_in_order",
    "sweep",
    "wait_ready",
]
