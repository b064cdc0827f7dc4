"""Looking at endpoints from outside, as a caller does: what they show, what they want, what they let through."""

from vestibule.diagnose.scan.authorities import Authorities
from vestibule.diagnose.scan.endpoint import Endpoint, Settings
from vestibule.diagnose.scan.foreign import foreign_identity
from vestibule.diagnose.scan.pace import Pace
from vestibule.diagnose.scan.scanning import scan
from vestibule.diagnose.scan.starttls import STARTTLS

__all__ = ["STARTTLS", "Authorities", "Endpoint", "Pace", "Settings", "foreign_identity", "scan"]
