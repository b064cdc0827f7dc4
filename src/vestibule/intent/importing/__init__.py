"""Istio's and Gateway API's documents, written anew as files of the intent.

What cannot be carried over is told, by place.  Nothing that is imported allows a call that was not allowed before: a
rule of which any part cannot be expressed is left out whole.
"""

from vestibule.intent.importing.importers import Imported, Source, import_documents

__all__ = ["Imported", "Source", "import_documents"]
