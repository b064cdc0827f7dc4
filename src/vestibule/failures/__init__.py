"""The failure map as data: how a failure shows, which layer it is in, what it means, how to make sure, what to do."""

from vestibule.failures.failure import Failure, Sign
from vestibule.failures.layers import Layer
from vestibule.failures.matching import FAILURES, explain, named
from vestibule.failures.reading import read_text
from vestibule.failures.symptom import Side, Symptom

__all__ = ["FAILURES", "Failure", "Layer", "Side", "Sign", "Symptom", "explain", "named", "read_text"]
