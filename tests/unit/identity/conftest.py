"""What the tests of the identity service share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.identity.world import World, identity_world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with identity_world(tmp_path) as made:
        yield made
