"""Our generated types beside other people's copies of the same messages, in one process and either order."""

from __future__ import annotations

import subprocess
import sys

import pytest

OURS = "from vestibule.wire.gen.spiffe import workload_pb2 as ours"
THEIRS = "import spiffe; from spiffe._proto import workload_pb2 as theirs"
USE = """
message = ours.X509SVID(spiffe_id="spiffe://example.org/a")
assert theirs.X509SVID.FromString(message.SerializeToString()).spiffe_id == message.spiffe_id
assert ours.X509SVID.DESCRIPTOR.file.pool is not theirs.X509SVID.DESCRIPTOR.file.pool
"""


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["ours first", "theirs first"])
def test_the_workload_api_of_the_spiffe_package_and_ours_coexist(order: tuple[str, str]) -> None:
    result = subprocess.run(
        [sys.executable, "-c", "\n".join((*order, USE))],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
