"""Kill server and agent with SIGKILL, at seeded points of a busy life, and hold what is left against a journal.

    python -m tests.crash.kill_nine --kills 200 --seed 1

The points are counted in acknowledged operations since the last kill, with a fraction of a disk flush added, all from
the seed; the programs are those that users run, without hooks.  After every kill of the server: SQLite's integrity
check on the files as they were left, and each entry against the journal.  At the end: the chain of the audit log, an
audit record for every entry that is there and every certificate that anybody got, and no token that let in two agents.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.clients import Client, all_entries, operator
from tests.crash.journal import Journal
from tests.crash.programs import PYTHON, Field, Program
from tests.ports import free_port

from vestibule.calls.identity_api import IdentityApi
from vestibule.calls.unix import unix_channel
from vestibule.calls.workload_api import WorkloadApi
from vestibule.errors import VestibuleError
from vestibule.net.grpc import Client as Grpc
from vestibule.pki.bundles import to_jwks
from vestibule.spiffe import TrustDomain
from vestibule.wire.gen.spire import agent_pb2, entry_pb2, types_pb2
from vestibule.wire.gen.vestibule.admin.v1 import admin_pb2

CLIENTS = 3
LONGEST_DELAY = 0.03
"""Seconds: about what a few flushes to disk take."""


@dataclass
class Report:
    """What came out."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    unanswered: int = 0
    certificates: int = 0
    torn: int = 0
    returned: int = 0
    seconds: float = 0.0
    violations: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        kills = ", ".join(f"{name} {count}" for name, count in sorted(self.kills.items()))
        lines = [
            f"seed {self.seed}: {sum(self.kills.values())} kills ({kills}) in {self.seconds:.0f} s; "
            f"{self.acknowledged} operations acknowledged, {self.unanswered} without an answer; "
            f"{self.certificates} certificates in hand; {self.returned} returns by proof of the last key; "
            f"{self.torn} torn lines in the audit log, all accounted for",
            *(f"VIOLATED: {each}" for each in self.violations),
            "nothing lost, nothing twice, nothing unrecorded" if not self.violations else "FAILED",
        ]
        return "\n".join(lines)


class Campaign:
    """One run."""

    def __init__(self, place: Field, seed: int) -> None:
        self._place = place
        self._chance = random.Random(seed)
        self._journal = Journal(place.directory / "journal.jsonl")
        self._server = place.server()
        self._agent: Program | None = None
        self._busy = asyncio.Event()
        self._clients = [
            Client(f"c{number}", place, self._journal, random.Random(f"{seed}-{number}"), self._busy)
            for number in range(CLIENTS)
        ]
        self.report = Report(seed=seed)

    async def run(self, kills: int) -> Report:
        """Everything, to the end."""
        began = time.monotonic()
        try:
            self._server.start()
            await self._server.until_ready()
            self._agent = await self._first_agent()
            self._busy.set()
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(each.run()) for each in self._clients]
                running.append(tasks.create_task(self._watch_agent()))
                for _ in range(kills):
                    await self._one_kill()
                await self._settle()
                # Once more amid everything, and not to go on: what got no answer, happened or not, is known then.
                await self._kill_server()
                for task in running:
                    task.cancel()
            self._check_audit()
        finally:
            self._close()
        self.report.acknowledged = self._journal.acknowledged
        self.report.unanswered = self._journal.unanswered
        self.report.certificates = len(self._journal.serials)
        self.report.violations = self._journal.violations
        self.report.seconds = time.monotonic() - began
        return self.report

    async def _first_agent(self) -> Program:
        token = self._place.directory / "token"
        bundle = self._place.directory / "bundle.json"
        async with operator(self._place) as calls:
            made = await calls.agents.unary("CreateJoinToken", agent_pb2.CreateJoinTokenRequest(ttl=600))
            document = to_jwks(await IdentityApi(calls.channel, TrustDomain.parse("example.org")).bundle())
            token.touch(0o600)
            token.write_text(made.value)
            bundle.write_bytes(document)
            path = f"/spire/agent/join_token/{made.value}"
            selector = types_pb2.Selector(type="unix", value=f"uid:{os.geteuid()}")
            entries = [
                types_pb2.Entry(
                    id=f"real-{number}",
                    spiffe_id=types_pb2.SPIFFEID(trust_domain="example.org", path=f"/real/{number}"),
                    parent_id=types_pb2.SPIFFEID(trust_domain="example.org", path=path),
                    selectors=[selector],
                )
                for number in range(5)
            ]
            agent = self._place.agent(token, bundle)
            agent.start()
            await agent.until_ready()
            await calls.entries.unary("BatchCreateEntry", entry_pb2.BatchCreateEntryRequest(entries=entries))
        for each in entries:
            self._journal.creating(each.id, "")
            self._journal.written(each.id, "")
        return agent

    async def _watch_agent(self) -> None:
        """Note every certificate that a workload, or the operator, sees at the agent."""
        while True:
            with suppress(VestibuleError, TimeoutError):
                async with asyncio.timeout(5):
                    self._journal.issued(await self._agent_serials())
            await asyncio.sleep(0.05)

    async def _agent_serials(self) -> set[int]:
        public, admin = unix_channel(self._place.agent_socket), unix_channel(self._place.admin_socket)
        try:
            context = await WorkloadApi(public).fetch()
            service = admin_pb2.DESCRIPTOR.services_by_name["AgentAdmin"]
            status = await Grpc(admin, service).unary("GetStatus", admin_pb2.GetAgentStatusRequest())
        finally:
            public.close()
            admin.close()
        return {each.serial for each in context.svids} | {int(each.serial, 16) for each in status.svids}

    # ------------------------------------------------------------------------------------- killing

    async def _one_kill(self) -> None:
        # 1. The point: so many acknowledged operations later, and a moment.
        target = self._journal.acknowledged + self._chance.randint(2, 25)
        victim = self._chance.choices(("server", "agent", "both"), (6, 3, 1))[0]
        delay = self._chance.uniform(0, LONGEST_DELAY)
        await self._until(lambda: self._journal.acknowledged >= target)
        await asyncio.sleep(delay)
        # 2. The kill.
        assert self._agent is not None
        self._journal.note("kill", victim=victim)
        self.report.kills[victim] += 1
        if victim in ("agent", "both"):
            self._agent.kill()
            self._agent.start()
        if victim in ("server", "both"):
            await self._kill_server()
            self._busy.set()
        if victim in ("agent", "both"):
            # Also while the server is away it is ready: it has its cache.
            await self._agent.until_ready()

    async def _kill_server(self) -> None:
        """Kill, start and compare; the clients rest until ``_busy`` is set again."""
        self._server.kill()
        self._busy.clear()
        verdict = self._place.integrity()
        if verdict != "ok":
            self._journal.violated(f"the database is damaged: {verdict}")
        self._server.start()
        await self._server.until_ready()
        for client in self._clients:
            await client.idle.wait()
        self._journal.compare(await all_entries(self._place))

    async def _settle(self) -> None:
        """After the last kill everything works: the agent has fresh certificates for all of its entries."""
        deadline = time.monotonic() + 60
        while True:
            with suppress(VestibuleError):
                channel = unix_channel(self._place.agent_socket)
                try:
                    async with asyncio.timeout(20):
                        if len((await WorkloadApi(channel).fetch()).svids) >= 5:
                            return
                except TimeoutError:
                    pass
                finally:
                    channel.close()
            if time.monotonic() > deadline:
                self._journal.violated("the agent did not come back to serving all of its entries")
                return
            await asyncio.sleep(0.1)

    async def _until(self, holds: object) -> None:
        assert callable(holds)
        deadline = time.monotonic() + 60
        while not holds():
            if time.monotonic() > deadline:
                self._journal.violated("nothing is acknowledged any more")
                return
            await asyncio.sleep(0.001)

    # -------------------------------------------------------------------------------------- the end

    def _check_audit(self) -> None:
        self._server.kill()
        records = self._place.audit_records()
        self._journal.audit(records)
        self.report.torn = sum(each["action"] == "audit.torn-line" for each in records)
        self.report.returned = sum(
            each["action"] == "agent.return" and each["outcome"] == "ok" for each in records
        )
        verified = subprocess.run(
            [*PYTHON, "audit", "verify", str(self._place.data / "audit.jsonl")],
            capture_output=True,
            check=False,
        )
        if verified.returncode != 0:
            self._journal.violated(f"the audit log does not verify: {verified.stdout.decode()[-500:]}")
        said = (self._place.directory / "agent.log").read_text()
        for trace in ("Traceback", "does not open"):
            if trace in said or trace in (self._place.directory / "server.log").read_text():
                self._journal.violated(f"a log has {trace!r}")

    def _close(self) -> None:
        for client in self._clients:
            client.close()
        for program in (self._server, self._agent):
            if program is not None and program.process is not None:
                program.kill()
        self._journal.close()


async def campaign(kills: int, seed: int, keep: bool = False, kind: type[Campaign] = Campaign) -> Report:
    """One run in a directory of its own, which stays if ``keep`` or if something is wrong."""
    directory = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))
    report = await kind(Field(directory, free_port()), seed).run(kills)
    if keep or report.violations:
        report.violations.append(f"see {directory}") if report.violations else None
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="keep the directory")
    given = parser.parse_args()
    report = asyncio.run(campaign(given.kills, given.seed, given.keep))
    sys.stdout.write(f"{report}\n")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
