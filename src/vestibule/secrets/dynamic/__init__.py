"""Credentials for other people's databases: made for one caller, lent for a time, taken away; or changed in time."""

from vestibule.secrets.dynamic.credentials import MOUNT, Credentials
from vestibule.secrets.dynamic.databases import Databases

__all__ = ["MOUNT", "Credentials", "Databases"]
