"""Intent directories: what is read, what is refused as a file, ``up.yaml``, and the shop."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vestibule.intent import Intent, LoadedUp, load, load_up
from vestibule.intent.files import MAX_BYTES
from vestibule.policy import Call, Mode
from vestibule.testing.deciding import decided

SHOP = Path(__file__).parents[3] / "examples" / "shop"


@pytest.fixture
def intent_dir(tmp_path: Path) -> Path:
    (tmp_path / "mesh.yaml").write_text("mesh: shop\ntrust_domain: example.org\nenvironment: prod\n")
    (tmp_path / "services").mkdir()
    (tmp_path / "services" / "web.yaml").write_text("service: web\n")
    return tmp_path


def found(directory: Path) -> list[str]:
    loaded = load(directory)
    assert (loaded.intent is None) == bool(loaded.problems)
    return [f"{problem.where} {problem.code.code}" for problem in loaded.problems]


def test_a_directory_is_an_intent(intent_dir: Path) -> None:
    loaded = load(intent_dir)
    assert loaded.problems == ()
    assert loaded.intent is not None
    assert list(loaded.intent.services) == ["web"]


def test_what_is_no_intent_may_stand_beside_it(intent_dir: Path) -> None:
    for name in ("README.md", ".hidden.yaml", "services/OWNERS", "services/.web.yaml.swp", "app.py"):
        (intent_dir / name).write_text("no")
    (intent_dir / "apps").mkdir()
    (intent_dir / "apps" / "config.yaml").write_text("no")
    (intent_dir / "up.yaml").write_text("not: looked at by load")
    assert found(intent_dir) == []


def test_a_directory_that_is_not_there_is_one_problem(tmp_path: Path) -> None:
    assert found(tmp_path / "nowhere") == [". VST0001"]


def test_an_empty_directory_is_no_wish_to_have_no_services(tmp_path: Path) -> None:
    assert found(tmp_path) == ["mesh.yaml VST0001", "services VST0001"]


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("mesh.yml", "VST0003"),
        ("payments.yaml", "VST0003"),
        ("services/orders.yml", "VST0003"),
        ("services/more/orders.yaml", "VST0003"),
        ("service/orders.yaml", "VST0003"),
        ("egress/stripe.yml", "VST0003"),
        ("egres/stripe.yaml", "VST0003"),
        ("gateways/more/edge.yaml", "VST0003"),
        ("gateway/edge.yaml", "VST0003"),
    ],
)
def test_a_file_that_would_not_be_read_is_a_problem(intent_dir: Path, name: str, code: str) -> None:
    (intent_dir / name).parent.mkdir(parents=True, exist_ok=True)
    (intent_dir / name).write_text("service: orders\n")
    (problem,) = load(intent_dir).problems
    assert problem.code.code == code
    assert name.startswith(problem.where.file)


def test_a_file_that_cannot_be_read_is_a_problem_and_not_a_wait(intent_dir: Path) -> None:
    services = intent_dir / "services"
    os.mkfifo(services / "fifo.yaml")
    (services / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (services / "latin.yaml").write_bytes(b"service: latin\nowner: M\xfcller\n")
    (services / "gone.yaml").symlink_to("nowhere.yaml")
    assert found(intent_dir) == [
        "services/big.yaml VST0002",
        "services/fifo.yaml VST0002",
        "services/gone.yaml VST0001",
        "services/latin.yaml:2:1 VST0002",
    ]


def test_a_service_whose_file_cannot_be_read_is_not_called_unknown(intent_dir: Path) -> None:
    (intent_dir / "services" / "big.yaml").write_bytes(b"#" * (MAX_BYTES + 1))
    (intent_dir / "services" / "web.yaml").write_text(
        "service: web\nports: {http: {protocol: http}}\nallow: [{id: a, from: [big]}]\n"
    )
    assert found(intent_dir) == ["services/big.yaml VST0002"]


def test_a_file_name_that_is_no_text_can_be_printed(intent_dir: Path) -> None:
    (intent_dir / "services" / os.fsdecode(b"\xff\n.yaml")).write_text("service: web\n")
    for problem in load(intent_dir).problems:
        assert str(problem.error).isprintable()


def test_a_byte_order_mark_is_no_problem(intent_dir: Path) -> None:
    (intent_dir / "services" / "web.yaml").write_bytes(b"\xef\xbb\xbfservice: web\n")
    assert found(intent_dir) == []


def up(directory: Path, text: str, intent: Intent | None = None) -> LoadedUp:
    (directory / "up.yaml").write_text(text)
    return load_up(directory, intent or load(directory).intent)


def test_apps_are_read(intent_dir: Path) -> None:
    loaded = up(
        intent_dir, "apps: {web: {run: [python3, -c, ''], version: v2, instances: 3, env: {LEVEL: debug}}}\n"
    )
    assert loaded.problems == ()
    assert loaded.up is not None
    app = loaded.up.apps["web"]
    assert (app.run, app.version, app.instances, dict(app.env)) == (
        ("python3", "-c", ""),
        "v2",
        3,
        {"LEVEL": "debug"},
    )


def test_further_versions_differ_only_in_what_they_say(intent_dir: Path) -> None:
    versions = "{v2: {env: {B: '2'}}, v3: {run: [b], instances: 2}}"
    loaded = up(
        intent_dir, f"apps: {{web: {{run: [a], instances: 3, env: {{A: '1'}}, versions: {versions}}}}}\n"
    )
    assert loaded.up is not None
    app = loaded.up.apps["web"]
    told = [(each.version, each.run, each.instances, dict(each.env)) for each in (app, *app.others)]
    assert told == [
        ("v1", ("a",), 3, {"A": "1"}),
        ("v2", ("a",), 1, {"A": "1", "B": "2"}),
        ("v3", ("b",), 2, {"A": "1"}),
    ]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("apps: {web: {run: [a], versions: {v1: {}}}}", "1:35 VST0026"),
        ("apps: {web: {run: [a], versions: {v2: {version: v3}}}}", "1:40 VST0020"),
        ("apps: {wb: {run: [a]}}", "1:8 VST0040"),
        ("apps: {web: {run: python3 web.py}}", "1:19 VST0022"),
        ("apps: {web: {run: []}}", "1:19 VST0025"),
        ("apps: {web: {run: ['']}}", "1:20 VST0025"),
        ("apps: {web: {}}", "1:13 VST0021"),
        ("apps: {web: {run: [a], instances: 0}}", "1:35 VST0025"),
        ("apps: {web: {run: [a], version: 1}}", "1:33 VST0022"),
        ("apps: {web: {run: [a], version: a/b}}", "1:33 VST0025"),
        ("apps: {web: {run: [a], env: {http_proxy: x}}}", "1:30 VST0025"),
        ("apps: {web: {run: [a], env: {Port: x}}}", "1:30 VST0025"),
        ("apps: {web: {run: [a], env: {VESTIBULE_X: x}}}", "1:30 VST0025"),
        ("apps: {web: {run: [a], env: {a=b: x}}}", "1:30 VST0025"),
        ("apps: {web: {run: [a], env: {DEBUG: 1}}}", "1:37 VST0022"),
        ("{}", "1:1 VST0021"),
    ],
)
def test_apps_that_make_no_sense_are_refused(intent_dir: Path, text: str, place: str) -> None:
    loaded = up(intent_dir, text)
    assert loaded.up is None
    assert [f"{problem.where} {problem.code.code}" for problem in loaded.problems] == [f"up.yaml:{place}"]


def test_a_missing_up_file_is_a_problem(intent_dir: Path) -> None:
    loaded = load_up(intent_dir, load(intent_dir).intent)
    assert [problem.code.code for problem in loaded.problems] == ["VST0001"]


def test_the_shop_is_an_intent_with_one_service_that_nobody_allows() -> None:
    loaded = load(SHOP)
    assert loaded.problems == ()
    intent = loaded.intent
    assert intent is not None
    apps = load_up(SHOP, intent)
    assert apps.problems == ()
    assert apps.up is not None
    assert set(apps.up.apps) == set(intent.services) == {"web", "orders", "payments", "reports"}
    ids = {name: service.spiffe_id for name, service in intent.services.items()}
    allowed = {
        (caller, callee)
        for caller in ids
        for callee, service in intent.services.items()
        for rule in service.allow
        if rule.mode is Mode.ENFORCE
        if rule.calls_from(ids[caller])
    }
    assert allowed == {("web", "orders"), ("orders", "payments")}
    charge = Call(caller=ids["orders"], port="http", method="POST", path="/v1/charges")
    assert decided(intent.services["payments"].allow, charge).rule == "payments/orders-charge"


def test_the_apps_of_the_shop_are_there() -> None:
    loaded = load_up(SHOP, load(SHOP).intent)
    assert loaded.up is not None
    for app in loaded.up.apps.values():
        assert (SHOP / app.run[-1]).is_file()
