"""What somebody does with ``hvac`` and a database: configure it, have credentials, renew them, give them back."""

from __future__ import annotations

from typing import Any

import hvac
import psycopg
import pytest
from tests.postgres import Postgres

CREATION = [
    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';",
    'GRANT SELECT ON orders TO "{{name}}";',
]
ROOT_PASSWORD = "planted-root-password"
STATIC_USERS = ("app_a", "app_b")


def prepared(shop: Postgres) -> None:
    """A table, the user that makes users, and two users of an app."""
    shop.execute("CREATE TABLE orders (n int)")
    shop.execute("INSERT INTO orders VALUES (1)")
    shop.execute(f"CREATE ROLE vault LOGIN SUPERUSER PASSWORD '{ROOT_PASSWORD}'")
    for name in STATIC_USERS:
        shop.execute(f"CREATE ROLE {name} LOGIN")
        shop.execute(f"GRANT SELECT ON orders TO {name}")


def configured(client: hvac.Client, shop: Postgres) -> None:
    """The database, a role whose users are made, and one whose users take turns."""
    database = client.secrets.database
    database.configure(
        "shop",
        plugin_name="postgresql-database-plugin",
        allowed_roles=["payments", "app"],
        connection_url=f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{shop.port}/postgres",
        username="vault",
        password=ROOT_PASSWORD,
    )
    database.create_role("payments", "shop", CREATION, default_ttl="1h", max_ttl="24h")
    client.write_data(
        "database/static-roles/app",
        data={
            "db_name": "shop",
            "username": STATIC_USERS[0],
            "alternate_username": STATIC_USERS[1],
            "rotation_period": "24h",
        },
    )


def request(shop: Postgres, credentials: dict[str, Any]) -> None:
    """What an app does with credentials: connects, and reads."""
    with psycopg.connect(
        host="127.0.0.1",
        port=shop.port,
        dbname="postgres",
        user=credentials["username"],
        password=credentials["password"],
    ) as session:
        assert session.execute("SELECT n FROM orders").fetchall() == [(1,)]


def whole_session(client: hvac.Client, shop: Postgres) -> None:
    """All that ``hvac`` has for databases and leases."""
    database, leases = client.secrets.database, client.sys
    configured(client, shop)

    assert database.list_connections()["data"]["keys"] == ["shop"]
    config = database.read_connection("shop")["data"]
    assert config["plugin_name"] == "postgresql-database-plugin"
    assert config["connection_details"]["username"] == "vault"
    assert ROOT_PASSWORD not in repr(config)
    assert database.list_roles()["data"]["keys"] == ["payments"]
    role = database.read_role("payments")["data"]
    assert (role["db_name"], role["default_ttl"], role["max_ttl"]) == ("shop", 3600, 86400)
    assert role["creation_statements"] == CREATION

    made = database.generate_credentials("payments")
    assert made["lease_id"].startswith("database/creds/payments/")
    assert made["lease_duration"] == 3600
    assert made["renewable"] is True
    request(shop, made["data"])

    looked = leases.read_lease(made["lease_id"])["data"]
    assert looked["id"] == made["lease_id"]
    assert 0 < looked["ttl"] <= 3600
    renewed = leases.renew_lease(made["lease_id"], increment=7200)
    assert (renewed["lease_id"], renewed["renewable"]) == (made["lease_id"], True)
    assert 7100 < renewed["lease_duration"] <= 7200
    listed = leases.list_leases("database/creds/payments")["data"]["keys"]
    assert [f"database/creds/payments/{each}" for each in listed] == [made["lease_id"]]
    leases.revoke_lease(made["lease_id"])
    with pytest.raises(psycopg.OperationalError):
        request(shop, made["data"])
    with pytest.raises(hvac.exceptions.InvalidRequest):
        leases.read_lease(made["lease_id"])

    many = [database.generate_credentials("payments")["data"] for _ in range(3)]
    leases.revoke_prefix("database/creds/payments")
    client.write_data("sys/leases/revoke-prefix/database/creds/payments", data={"sync": True})
    for each in many:
        with pytest.raises(psycopg.OperationalError):
            request(shop, each)

    database.rotate_root_credentials("shop")
    with pytest.raises(psycopg.OperationalError):
        request(shop, {"username": "vault", "password": ROOT_PASSWORD})
    database.reset_connection("shop")
    request(shop, database.generate_credentials("payments")["data"])

    assert database.list_static_roles()["data"]["keys"] == ["app"]
    static = database.read_static_role("app")["data"]
    assert (static["username"], static["rotation_period"]) == (STATIC_USERS[0], 86400)
    before = database.get_static_credentials("app")["data"]
    assert before["last_vault_rotation"]
    assert 0 < before["ttl"] <= 86400
    request(shop, before)
    database.rotate_static_role_credentials("app")
    after = database.get_static_credentials("app")["data"]
    assert after["username"] == STATIC_USERS[1]
    request(shop, after)
    request(shop, before)

    with pytest.raises(hvac.exceptions.InvalidRequest):
        database.generate_credentials("nobody")
    with pytest.raises(hvac.exceptions.InvalidPath):
        database.read_role("nobody")
    with pytest.raises(hvac.exceptions.InvalidRequest):
        database.delete_connection("shop")
    database.delete_static_role("app")
    database.delete_role("payments")
    leases.revoke_force("database/creds/payments")
    database.delete_connection("shop")
    with pytest.raises(hvac.exceptions.InvalidPath):
        database.list_connections()
