"""Databases and leases in Vault's dialect: who may, what is answered, what is on record."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import pytest

from vestibule.app.server_lending import Lending
from vestibule.audit import AuditEvent
from vestibule.doors.vault.envelope import envelope
from vestibule.doors.vault.operations import Answer, Caller, VaultRequest
from vestibule.doors.vault.pipeline import Pipeline
from vestibule.errors import VestibuleError
from vestibule.secrets.ports import AccessDecision, Verb
from vestibule.spiffe import SpiffeId
from vestibule.testing import FakeClock
from vestibule.testing.barrier import MemoryBarrier
from vestibule.testing.credentials import MemoryDatabase, MemoryUser

PAYMENTS = SpiffeId.parse("spiffe://example.org/shop/payments")
ORDERS = SpiffeId.parse("spiffe://example.org/shop/orders")
ADMIN = SpiffeId.parse("spiffe://example.org/admin")
DBA = SpiffeId.parse("spiffe://example.org/dba")
CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';"
CONFIG = {
    "plugin_name": "postgresql-database-plugin",
    "allowed_roles": "payments, orders,app",
    "connection_url": "postgresql://{{username}}:{{password}}@127.0.0.1:5432/shop",
    "username": "root",
    "password": "root-password",
}
HOUR = 3600


class Rules:
    """Access by a list; ``denied`` beats it."""

    def __init__(self) -> None:
        self.allowed = {
            (PAYMENTS, Verb.READ, "database/creds/payments"),
            (PAYMENTS, Verb.READ, "database/static-creds/app"),
            (DBA, Verb.ROTATE, "database/creds/payments"),
            (DBA, Verb.ROTATE, "database/static-creds/app"),
            (DBA, Verb.LIST, "database/creds/payments"),
        }
        self.denied: set[tuple[SpiffeId, Verb, str]] = set()

    def decide(self, caller: SpiffeId, verb: Verb, path: str) -> AccessDecision:
        asked = caller, verb, path
        if asked in self.denied:
            return AccessDecision(allowed=False, rule="group/deny")
        return AccessDecision(
            allowed=asked in self.allowed, rule="group/rule" if asked in self.allowed else None
        )


class Door:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.database = MemoryDatabase(self.clock)
        self.database.users["app"] = MemoryUser("unknown")
        self.database.users["app_b"] = MemoryUser("unknown")
        self.records: list[AuditEvent] = []
        self.rules = Rules()
        self.lending = Lending(
            MemoryBarrier(), self.clock, self.record, lambda: True, kinds=self.database.kinds()
        )
        self.pipeline = Pipeline(
            self.lending.backends,
            self.rules,
            self,
            is_operator=lambda request: request.caller.spiffe_id == ADMIN,
        )

    async def record(self, events: Sequence[AuditEvent]) -> None:
        self.records += events

    async def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, by: SpiffeId = ADMIN
    ) -> Answer:
        request = VaultRequest(
            method=method, path=path, caller=Caller(spiffe_id=by), body=body or {}, request_id="r"
        )
        answer, _ = await self.pipeline.answer(request)
        return answer

    async def refused(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, by: SpiffeId = ADMIN
    ) -> str:
        with pytest.raises(VestibuleError) as raised:
            await self.ask(method, path, body, by)
        return raised.value.code.code

    async def configured(self) -> None:
        assert await self.ask("POST", "database/config/shop", CONFIG) == Answer()
        await self.ask(
            "POST",
            "database/roles/payments",
            {"db_name": "shop", "creation_statements": CREATION, "default_ttl": "1h", "max_ttl": 86400},
        )

    async def credentials(self, by: SpiffeId = PAYMENTS) -> Answer:
        return await self.ask("GET", "database/creds/payments", by=by)


@pytest.fixture
async def door() -> Door:
    made = Door()
    await made.configured()
    return made


def lease_of(answer: Answer) -> str:
    assert answer.lease is not None
    return answer.lease.lease_id


# ------------------------------------------------------------------------------------------- credentials


async def test_credentials_come_with_a_lease(door: Door) -> None:
    answer = envelope(await door.credentials(), "r")
    assert answer["lease_id"].startswith("database/creds/payments/")
    assert (answer["lease_duration"], answer["renewable"]) == (HOUR, True)
    assert set(answer["data"]) == {"username", "password"}
    assert door.database.lets_in(answer["data"]["username"], answer["data"]["password"])


async def test_what_is_recorded_names_user_and_lease_and_no_password(door: Door) -> None:
    answer = await door.credentials()
    requested, done = door.records[-2:]
    assert (requested.outcome, done.outcome) == ("requested", "ok")
    assert done.actor == str(PAYMENTS)
    assert done.subject == "database/creds/payments"
    assert answer.data is not None
    assert done.details["lease"] == lease_of(answer)
    assert done.details["username"] == answer.data["username"]
    assert answer.data["password"] not in repr(door.records)


async def test_without_a_rule_there_are_no_credentials_also_for_administrators(door: Door) -> None:
    for by in (ORDERS, ADMIN):
        assert await door.refused("GET", "database/creds/payments", by=by) == "VST5300"
    assert not [each for each in door.database.users if each.startswith("v-")]


async def test_a_role_that_is_not_there_is_told_as_vault_does(door: Door) -> None:
    door.rules.allowed.add((PAYMENTS, Verb.READ, "database/creds/nobody"))
    assert await door.refused("GET", "database/creds/nobody", by=PAYMENTS) == "VST5412"


# ------------------------------------------------------------------------------------------- configuration


async def test_a_database_is_shown_without_its_password(door: Door) -> None:
    answer = await door.ask("GET", "database/config/shop")
    assert answer.data == {
        "plugin_name": "postgresql-database-plugin",
        "plugin_version": "",
        "allowed_roles": ["payments", "orders", "app"],
        "verify_connection": True,
        "password_policy": "",
        "root_credentials_rotate_statements": [],
        "connection_details": {
            "connection_url": CONFIG["connection_url"],
            "username": "root",
            "max_open_connections": 4,
            "max_connection_lifetime": "0s",
            "password_authentication": "scram-sha-256",
        },
    }


@pytest.mark.parametrize(
    "url",
    ["postgresql://root:hunter22@127.0.0.1/shop", "host=127.0.0.1 dbname=shop user=root password='hunter22'"],
)
async def test_a_password_in_the_url_is_warned_of_and_never_shown(door: Door, url: str) -> None:
    answer = await door.ask("POST", "database/config/shop", {"connection_url": url})
    assert "Password found in connection_url" in answer.warnings[0]
    shown = await door.ask("GET", "database/config/shop")
    assert "hunter22" not in repr(shown.data)


async def test_a_role_is_shown_as_vault_shows_it(door: Door) -> None:
    answer = await door.ask("GET", "database/roles/payments")
    assert answer.data == {
        "db_name": "shop",
        "creation_statements": [CREATION],
        "revocation_statements": [],
        "rollback_statements": [],
        "renew_statements": [],
        "default_ttl": 3600,
        "max_ttl": 86400,
        "credential_type": "password",
    }


@pytest.mark.parametrize(
    "given",
    [
        CREATION,
        [CREATION],
        json.dumps([CREATION]),
        base64.b64encode(CREATION.encode()).decode(),
        base64.b64encode(json.dumps([CREATION]).encode()).decode(),
    ],
)
async def test_statements_are_read_in_all_the_forms_that_vault_reads(door: Door, given: object) -> None:
    await door.ask("POST", "database/roles/payments", {"creation_statements": given})
    answer = await door.ask("GET", "database/roles/payments")
    assert answer.data is not None
    assert answer.data["creation_statements"] == [CREATION]
    assert answer.data["default_ttl"] == 3600, "what was not named stays"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("database/config/shop", {"connection_uri": "misspelt"}),
        ("database/config/shop", {"username_template": "{{.RoleName}}"}),
        ("database/config/shop", {"password_policy": "strong"}),
        ("database/config/shop", {"disable_escaping": True}),
        ("database/config/shop", {"allowed_roles": {"payments": True}}),
        ("database/config/shop", {"password_authentication": "md5"}),
        ("database/roles/payments", {"credential_type": "rsa_private_key"}),
        ("database/roles/payments", {"default_ttl": "soon"}),
        ("database/roles/payments", {"creation_statements": 7}),
        ("database/roles/payments", {"creation_statements": [["SELECT"]]}),
        ("database/static-roles/app", {"db_name": "shop", "username": 7, "rotation_period": "1h"}),
    ],
)
async def test_what_is_not_understood_or_cannot_be_kept_is_refused(
    door: Door, path: str, body: Mapping[str, Any]
) -> None:
    assert await door.refused("POST", path, body) == "VST5210"


async def test_lists_are_of_names_and_empty_ones_are_not_found(door: Door) -> None:
    assert (await door.ask("LIST", "database/config")).data == {"keys": ["shop"]}
    assert (await door.ask("LIST", "database/roles")).data == {"keys": ["payments"]}
    assert await door.ask("LIST", "database/static-roles") == Answer(status=404)


async def test_what_is_absent_is_not_found_and_its_deletion_is_no_error(door: Door) -> None:
    for what in ("config", "roles", "static-roles"):
        assert await door.ask("GET", f"database/{what}/nothing") == Answer(status=404)
        assert await door.ask("DELETE", f"database/{what}/nothing") == Answer()


async def test_who_has_no_rule_configures_nothing(door: Door) -> None:
    for method, path in (
        ("POST", "database/config/shop"), ("GET", "database/config/shop"), ("DELETE", "database/config/shop"),
        ("POST", "database/roles/payments"), ("GET", "database/roles/payments"), ("LIST", "database/roles"),
        ("POST", "database/static-roles/app"), ("POST", "database/rotate-role/app"),
        ("POST", "database/rotate-root/shop"), ("POST", "database/reset/shop"), ("GET", "database/static-creds/app"),
    ):  # fmt: skip
        assert await door.refused(method, path, by=ORDERS) == "VST5300"


async def test_a_rule_that_forbids_holds_for_administrators_too(door: Door) -> None:
    door.rules.denied.add((ADMIN, Verb.WRITE, "database/config/shop"))
    assert await door.refused("POST", "database/config/shop", CONFIG) == "VST5300"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "database"), ("GET", "database/creds"), ("GET", "database/creds/a/b"), ("POST", "database/creds/a"),
        ("PATCH", "database/config/shop"), ("GET", "database/rotate-root/shop"), ("LIST", "database/creds"),
        ("GET", "sys/leases/renew"), ("POST", "sys/leases/tidy"), ("POST", "sys/leases/revoke-prefix"),
    ],
)  # fmt: skip
async def test_other_paths_are_not_there(door: Door, method: str, path: str) -> None:
    assert await door.refused(method, path) == "VST5205"


async def test_root_and_reset(door: Door) -> None:
    assert await door.ask("POST", "database/rotate-root/shop") == Answer()
    assert not door.database.lets_in("root", "root-password")
    assert await door.ask("POST", "database/reset/shop") == Answer()
    await door.credentials()


# ------------------------------------------------------------------------------------------- static roles


async def test_a_static_role_is_read_changed_and_told_in_seconds(door: Door) -> None:
    body = {"db_name": "shop", "username": "app", "rotation_period": "24h"}
    assert await door.ask("POST", "database/static-roles/app", body) == Answer()
    door.clock.advance(HOUR)
    told = (await door.ask("GET", "database/static-creds/app", by=PAYMENTS)).data
    assert told is not None
    assert door.database.lets_in("app", told["password"])
    assert told == {
        "username": "app",
        "password": told["password"],
        "ttl": 23 * HOUR,
        "rotation_period": 24 * HOUR,
        "last_vault_rotation": "2026-01-01T00:00:00Z",
    }
    assert await door.ask("POST", "database/rotate-role/app", by=DBA) == Answer()
    after = (await door.ask("GET", "database/static-creds/app", by=PAYMENTS)).data
    assert after is not None
    assert after["password"] != told["password"]
    assert (await door.ask("GET", "database/static-roles/app")).data == {
        "db_name": "shop",
        "username": "app",
        "rotation_period": 24 * HOUR,
        "rotation_statements": [],
        "last_vault_rotation": "2026-01-01T01:00:00Z",
        "credential_type": "password",
    }


async def test_two_users_may_take_turns(door: Door) -> None:
    body = {"db_name": "shop", "username": "app", "alternate_username": "app_b", "rotation_period": 86400}
    await door.ask("POST", "database/static-roles/app", body)
    users = []
    for _ in range(3):
        told = (await door.ask("GET", "database/static-creds/app", by=PAYMENTS)).data
        assert told is not None
        users.append(told["username"])
        await door.ask("POST", "database/rotate-role/app", by=DBA)
    assert users == ["app", "app_b", "app"]


# ------------------------------------------------------------------------------------------- leases


async def test_an_owner_looks_at_renews_and_gives_back_his_lease_without_another_rule(door: Door) -> None:
    lease = lease_of(await door.credentials())
    door.clock.advance(60)
    looked = (await door.ask("POST", "sys/leases/lookup", {"lease_id": lease}, PAYMENTS)).data
    assert looked is not None
    assert looked["id"] == lease
    assert looked["ttl"] == HOUR - 60
    assert looked["last_renewal"] is None
    assert (looked["issue_time"], looked["expire_time"]) == ("2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z")
    renewed = envelope(
        await door.ask("POST", "sys/leases/renew", {"lease_id": lease, "increment": 1800}, PAYMENTS), "r"
    )
    assert (renewed["lease_id"], renewed["lease_duration"], renewed["renewable"]) == (lease, 1800, True)
    assert await door.ask("POST", "sys/leases/revoke", {"lease_id": lease}, PAYMENTS) == Answer()
    assert not [each for each in door.database.users if each.startswith("v-")]


async def test_nobody_else_touches_a_lease(door: Door) -> None:
    lease = lease_of(await door.credentials())
    for what in ("lookup", "renew", "revoke"):
        assert await door.refused("POST", f"sys/leases/{what}", {"lease_id": lease}, ORDERS) == "VST5300"
        assert await door.refused("POST", f"sys/leases/{what}/{lease}", by=ORDERS) == "VST5300"


async def test_who_may_rotate_may_renew_and_revoke_what_others_hold(door: Door) -> None:
    lease = lease_of(await door.credentials())
    await door.ask("POST", "sys/leases/renew", {"lease_id": lease}, DBA)
    await door.ask("POST", "sys/leases/revoke", {"lease_id": lease}, DBA)
    assert await door.refused("POST", "sys/leases/lookup", {"lease_id": lease}, DBA) == "VST5400"


async def test_an_owner_who_may_no_longer_ask_renews_no_more_but_gives_back(door: Door) -> None:
    lease = lease_of(await door.credentials())
    door.rules.allowed.remove((PAYMENTS, Verb.READ, "database/creds/payments"))
    assert await door.refused("POST", "sys/leases/renew", {"lease_id": lease}, PAYMENTS) == "VST5300"
    await door.ask("POST", "sys/leases/revoke", {"lease_id": lease}, PAYMENTS)


async def test_a_renewal_that_is_cut_short_says_so(door: Door) -> None:
    lease = lease_of(await door.credentials())
    answer = await door.ask("POST", "sys/leases/renew", {"lease_id": lease, "increment": "100h"}, PAYMENTS)
    assert answer.lease is not None
    assert answer.lease.duration == timedelta(hours=24)
    assert not answer.lease.renewable
    assert "longest life" in answer.warnings[0]


async def test_leases_of_a_role_are_listed_and_revoked_by_prefix(door: Door) -> None:
    leases = sorted([lease_of(await door.credentials()).rpartition("/")[2] for _ in range(3)])
    assert (await door.ask("LIST", "sys/leases/lookup/database/creds/payments", by=DBA)).data == {
        "keys": leases
    }
    assert (await door.ask("LIST", "sys/leases/lookup")).data == {"keys": ["database/"]}
    assert await door.refused("LIST", "sys/leases/lookup/database/creds", by=DBA) == "VST5206"
    assert await door.refused("POST", "sys/leases/revoke-prefix/database", by=DBA) == "VST5206"
    answer = await door.ask("POST", "sys/leases/revoke-prefix/database/creds/payments", {"sync": True}, DBA)
    assert answer.detail == {"leases": 3}
    assert not [each for each in door.database.users if each.startswith("v-")]


async def test_a_revocation_that_does_not_work_is_told_and_visible(door: Door) -> None:
    lease = lease_of(await door.credentials())
    door.database.up = False
    answer = await door.ask("POST", "sys/leases/revoke", {"lease_id": lease}, PAYMENTS)
    assert "tried again" in answer.warnings[0]
    looked = (await door.ask("POST", "sys/leases/lookup", {"lease_id": lease}, PAYMENTS)).data
    assert looked is not None
    assert (looked["state"], looked["ttl"], looked["renewable"]) == ("revoking", 0, False)
    assert "VST5415" in looked["last_error"]
    told = (await door.ask("GET", "sys/leases")).data
    assert told is not None
    assert told["lease_count"] == 1
    assert told["leases"][0]["lease_id"] == lease
    assert (await door.ask("GET", "sys/leases/count")).data == {"lease_count": 1, "counts": {"database/": 1}}
    assert (
        await door.refused("POST", "sys/leases/revoke", {"lease_id": lease, "sync": True}, PAYMENTS)
        == "VST5403"
    )


async def test_only_administrators_forget_what_could_not_be_revoked(door: Door) -> None:
    await door.credentials()
    door.database.up = False
    path = "sys/leases/revoke-force/database/creds/payments"
    assert await door.refused("POST", path, by=DBA) == "VST5206"
    answer = await door.ask("POST", path)
    assert answer.detail == {"forgotten": 1}
    assert (await door.ask("LIST", "sys/leases/lookup")).status == 404


@pytest.mark.parametrize(
    "lease_id", ["", "x", "../../etc", "database/creds/", "database//creds/x", "a/" * 40 + "b"]
)
async def test_what_is_no_lease_id_is_refused(door: Door, lease_id: str) -> None:
    for what in ("lookup", "renew", "revoke"):
        assert await door.refused("POST", f"sys/leases/{what}", {"lease_id": lease_id}) == "VST5404"
