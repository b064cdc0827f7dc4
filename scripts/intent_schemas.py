"""Publish the JSON Schemas of the intent language, which editors and ``vestibule validate --schema`` use.

``python scripts/intent_schemas.py`` writes them; ``tests/unit/intent/test_schemas.py`` fails when they are
not current.
"""

from __future__ import annotations

import json
from pathlib import Path

from vestibule.intent import language

PUBLISHED = Path(language.__file__).parent / "schemas"


def main() -> None:
    """Write one file for each kind of intent file."""
    PUBLISHED.mkdir(exist_ok=True)
    for kind in language.FILES:
        text = json.dumps(language.schema(kind), indent=2, ensure_ascii=False)
        (PUBLISHED / f"{kind}.schema.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
