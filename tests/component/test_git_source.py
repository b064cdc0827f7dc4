"""The intent from a repository of the real git: what is taken up, what is refused, and what is never run."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from tests.component.git_lab import (
    BROKEN,
    MESH,
    WEB,
    Repository,
    intent_repository,
    needs,
    ssh_key,
)

from vestibule.calls.git import Access, Mirror, Place, Ref
from vestibule.clock import SystemClock
from vestibule.errors import VestibuleError
from vestibule.intent.files import MAX_BYTES
from vestibule.mesh import Following, GitSource

ORDERS = WEB.replace("web", "orders")
GIB = 2**30


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    needs("git")
    return intent_repository(tmp_path / "repository")


class Lab:
    """A source that follows a repository, and can be begun anew with what it kept."""

    def __init__(
        self, data: Path, place: str | Path, access: Access | None = None, **following: object
    ) -> None:
        self.data = data
        self.place = Place.parse(str(place))
        self.access = access or Access()
        self.max_size = GIB
        values: dict[str, object] = {"ref": Ref.parse("main"), "poll": timedelta(milliseconds=200)}
        self.following = Following(**{**values, **following})  # type: ignore[arg-type]
        self.source = self.begin()

    def begin(self) -> GitSource:
        mirror = Mirror(self.data, self.place, self.access, max_size=self.max_size, environment=os.environ)
        self.source = GitSource(mirror, self.following, SystemClock())
        return self.source

    @property
    def version(self) -> str | None:
        intent = self.source.reading.intent
        return intent.version if intent else None

    @property
    def codes(self) -> list[str]:
        return [each.code.code for each in self.source.reading.problems]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.source.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def test_an_intent_names_the_commit_that_it_was_read_from(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    reading = await lab.source.load()
    assert reading.problems == ()
    assert lab.version == repository.head[:12]
    assert reading.commit is not None
    assert (reading.commit.id, reading.commit.subject) == (repository.head, "the first")
    assert reading.commit.author == "Ann <ann@example.org>"
    assert reading.files == {"mesh.yaml": MESH.encode(), "services/web.yaml": WEB.encode()}
    assert (lab.data.stat().st_mode & 0o777) == 0o700


async def test_a_commit_in_a_repository_on_this_machine_is_live_in_less_than_a_second(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path, poll=timedelta(hours=1))
    await lab.source.load()
    async with lab.running():
        await asyncio.sleep(0)
        seconds: list[float] = []
        commit = ""
        # The machine may be busy with other things; what it takes by itself shows at its best.
        while not seconds or (min(seconds) >= 1 and len(seconds) < 20):
            seen = lab.source.revision.value
            commit = repository.commit({"services/orders.yaml": ORDERS + "\n" * len(seconds)})
            began = asyncio.get_running_loop().time()
            await asyncio.wait_for(lab.source.revision.changed(seen), 60)
            seconds.append(asyncio.get_running_loop().time() - began)
    assert min(seconds) < 1, seconds
    assert lab.version == commit[:12]


async def test_a_broken_commit_changes_nothing_and_is_shown_with_positions(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    good = (await lab.source.load()).intent
    seen = lab.source.revision.value
    broken = repository.commit({"services/web.yaml": BROKEN})
    await lab.source.look()
    assert lab.source.reading.intent is good
    assert lab.source.revision.value == seen
    assert lab.source.reading.head == broken
    places = [str(each.where) for each in lab.source.reading.problems]
    assert f"{broken[:12]}:services/web.yaml:2:16" in places
    mended = repository.commit({"services/web.yaml": WEB, "services/orders.yaml": ORDERS})
    await lab.source.look()
    assert (lab.version, lab.codes) == (mended[:12], [])


async def test_a_commit_that_leaves_the_intent_as_it_is_gives_no_new_version(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    version, seen = lab.version, lab.source.revision.value
    newer = repository.commit({"README.md": "words"})
    await lab.source.look()
    assert (lab.version, lab.source.revision.value, lab.source.reading.head) == (version, seen, newer)
    # Nor does a restart.
    lab.begin()
    await lab.source.load()
    assert lab.version == version


async def test_a_folder_of_a_branch_or_tag_can_be_followed(tmp_path: Path, repository: Repository) -> None:
    repository.git("checkout", "-q", "-b", "release")
    commit = repository.commit({"mesh/prod/mesh.yaml": MESH, "mesh/prod/services/orders.yaml": ORDERS})
    repository.git("tag", "-a", "-m", "a tag", "v1")
    repository.git("checkout", "-q", "main")
    for name in ("release", "v1", "refs/tags/v1", commit):
        lab = Lab(tmp_path / f"data-{len(name)}", repository.path, ref=Ref.parse(name), folder="mesh/prod")
        reading = await lab.source.load()
        assert lab.version == commit[:12], name
        assert reading.intent is not None
        assert list(reading.intent.services) == ["orders"]


async def test_a_bare_repository_with_packed_refs_is_watched_too(
    tmp_path: Path, repository: Repository
) -> None:
    bare = tmp_path / "bare.git"
    repository.git("clone", "-q", "--bare", str(repository.path), str(bare))
    repository.git("remote", "add", "origin", str(bare))
    lab = Lab(tmp_path / "data", bare, poll=timedelta(hours=1))
    await lab.source.load()
    async with lab.running():
        await asyncio.sleep(0)
        commit = repository.commit({"services/orders.yaml": ORDERS})
        repository.git("push", "-q", "origin", "main")
        await until(lambda: lab.version == commit[:12])


async def test_a_repository_with_sha256_names_is_followed(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "r", "--object-format=sha256")
    commit = repository.commit({"mesh.yaml": MESH, "services/web.yaml": WEB})
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    assert len(commit) == 64
    assert lab.version == commit[:12]


# ------------------------------------------------------------------------------------------ going wrong


async def test_an_unreachable_repository_leaves_the_last_good_and_says_since_when(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    version = lab.version
    away = repository.path.with_name("away")
    repository.path.rename(away)
    await lab.source.look()
    await lab.source.look()
    assert (lab.version, lab.codes) == (version, ["VST3222"])
    assert "since 20" in lab.source.reading.problems[0].message
    # A restart meanwhile changes nothing either.
    lab.begin()
    await lab.source.load()
    assert lab.version == version
    assert lab.source.reading.commit is not None
    await lab.source.look()
    assert lab.codes == ["VST3222"]
    away.rename(repository.path)
    await lab.source.look()
    assert (lab.version, lab.codes) == (version, [])


async def test_without_anything_kept_there_is_no_mesh_until_the_repository_comes(
    tmp_path: Path, repository: Repository
) -> None:
    away = repository.path.with_name("away")
    repository.path.rename(away)
    lab = Lab(tmp_path / "data", repository.path)
    assert (await lab.source.load()).intent is None
    assert lab.codes == ["VST3222"]
    async with lab.running():
        away.rename(repository.path)
        await until(lambda: lab.version is not None)


async def test_a_branch_that_is_not_there_is_named(tmp_path: Path, repository: Repository) -> None:
    lab = Lab(tmp_path / "data", repository.path, ref=Ref.parse("mian"))
    await lab.source.load()
    assert lab.codes == ["VST3223"]
    assert "'mian'" in lab.source.reading.problems[0].message


async def test_rewritten_history_is_refused_unless_the_settings_say_otherwise(
    tmp_path: Path, repository: Repository
) -> None:
    repository.commit({"services/orders.yaml": ORDERS})
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    version = lab.version
    repository.git("reset", "-q", "--hard", "HEAD~1")
    other = repository.commit({"services/other.yaml": WEB.replace("web", "other")})
    await lab.source.look()
    assert (lab.version, lab.codes) == (version, ["VST3225"])
    lab.following = replace(lab.following, rewrites=True)
    lab.begin()
    await lab.source.load()
    assert lab.version == version
    await lab.source.look()
    assert (lab.version, lab.codes) == (other[:12], ["VST3225"])
    assert lab.source.reading.problems[0].severity.value == "warning"


async def test_a_copy_that_is_damaged_is_fetched_anew(tmp_path: Path, repository: Repository) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    version = lab.version
    for damage in ("HEAD", "objects"):
        target = lab.data / "mirror.git" / damage
        shutil.rmtree(target) if target.is_dir() else target.write_text("")
        lab.begin()
        await lab.source.load()
        assert (lab.version, lab.codes) == (version, []), damage


async def test_what_a_killed_git_left_does_not_refuse_the_next(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    (lab.data / "mirror.git" / "refs" / "vestibule" / "head.lock").touch()
    left = lab.data / "mirror.git" / "objects" / "pack" / "tmp_pack_x"
    left.write_bytes(b"half")
    commit = repository.commit({"services/orders.yaml": ORDERS})
    lab.begin()
    await lab.source.load()
    await lab.source.look()
    assert (lab.version, left.exists()) == (commit[:12], False)


async def test_a_repository_larger_than_allowed_is_not_taken_and_leaves_no_rubbish(
    tmp_path: Path, repository: Repository
) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    lab.max_size = 1024 * 1024
    lab.begin()
    await lab.source.load()
    version = lab.version
    (repository.path / "large").write_bytes(os.urandom(3 * 1024 * 1024))
    repository.commit()
    await lab.source.look()
    assert (lab.version, lab.codes) == (version, ["VST3226"])
    assert sum(file.stat().st_size for file in lab.data.rglob("*") if file.is_file()) < 1024 * 1024
    # The same is not fetched again and again; what comes after it is, at once.
    (repository.path / "large").unlink()
    repository.git("reset", "-q", "--hard", "HEAD~1")
    small = repository.commit({"services/orders.yaml": ORDERS})
    await lab.source.look()
    assert lab.version == small[:12]


async def test_a_full_disk_leaves_the_last_good(tmp_path: Path, repository: Repository) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("git")
    (tools / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *" fetch "*) echo "fatal: write error: No space left on device" >&2; exit 128;;'
        f' esac\nexec {real} "$@"\n'
    )
    (tools / "git").chmod(0o755)
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    version = lab.version
    repository.commit({"services/orders.yaml": ORDERS})
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    mirror = Mirror(lab.data, lab.place, lab.access, max_size=GIB, environment=path)
    lab.source = GitSource(mirror, lab.following, SystemClock())
    await lab.source.load()
    await lab.source.look()
    assert (lab.version, lab.codes) == (version, ["VST3227"])


async def test_without_git_a_server_does_not_start(tmp_path: Path, repository: Repository) -> None:
    mirror = Mirror(
        tmp_path / "data",
        Place.parse(str(repository.path)),
        Access(),
        max_size=GIB,
        environment={"PATH": "/nonexistent"},
    )
    with pytest.raises(VestibuleError) as caught:
        await GitSource(mirror, Following(ref=Ref.parse("main")), SystemClock()).load()
    assert caught.value.code.code == "VST3221"


# ------------------------------------------------------------------------------------------- signatures


async def test_only_commits_signed_by_an_allowed_ssh_key_are_taken_up(
    tmp_path: Path, repository: Repository
) -> None:
    ann, eve = ssh_key(tmp_path, "ann"), ssh_key(tmp_path, "eve")
    signers = tmp_path / "signers"
    signers.write_text(f"ann@example.org {ann.with_suffix('.pub').read_text()}")
    repository.sign_with(ann)
    signed = repository.commit()
    lab = Lab(tmp_path / "data", repository.path, Access(allowed_signers=signers))
    reading = await lab.source.load()
    assert (lab.version, lab.codes) == (signed[:12], [])
    assert reading.commit is not None
    assert (reading.commit.signed_by or "").startswith("ann@example.org (SHA256:")

    repository.sign_with(eve)
    repository.commit({"services/orders.yaml": ORDERS})
    await lab.source.look()
    assert (lab.version, lab.codes) == (signed[:12], ["VST3224"])
    repository.do_not_sign()
    repository.commit({"services/orders.yaml": ORDERS})
    await lab.source.look()
    assert (lab.version, lab.codes) == (signed[:12], ["VST3224"])
    repository.sign_with(ann)
    newest = repository.commit()
    await lab.source.look()
    assert (lab.version, lab.codes) == (newest[:12], [])


async def test_a_repository_cannot_bring_its_own_allowed_signers(
    tmp_path: Path, repository: Repository
) -> None:
    ann, eve = ssh_key(tmp_path, "ann"), ssh_key(tmp_path, "eve")
    signers, evil = tmp_path / "signers", tmp_path / "evil"
    signers.write_text(f"ann@example.org {ann.with_suffix('.pub').read_text()}")
    evil.write_text(f"eve@example.org {eve.with_suffix('.pub').read_text()}")
    for name, value in (("gpg.ssh.allowedSignersFile", str(evil)), ("gpg.format", "ssh")):
        repository.git("config", name, value)
    repository.sign_with(eve)
    repository.commit()
    lab = Lab(tmp_path / "data", repository.path, Access(allowed_signers=signers))
    await lab.source.load()
    assert (lab.version, lab.codes) == (None, ["VST3224"])


async def test_a_key_that_is_allowed_later_lets_the_waiting_commit_in(
    tmp_path: Path, repository: Repository
) -> None:
    ann = ssh_key(tmp_path, "ann")
    signers = tmp_path / "signers"
    signers.write_text("")
    repository.sign_with(ann)
    commit = repository.commit()
    lab = Lab(tmp_path / "data", repository.path, Access(allowed_signers=signers))
    await lab.source.load()
    assert lab.codes == ["VST3224"]
    signers.write_text(f"ann@example.org {ann.with_suffix('.pub').read_text()}")
    async with lab.running():
        await until(lambda: lab.version == commit[:12])


async def test_only_commits_signed_by_an_allowed_openpgp_key_are_taken_up(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("gpg", "gpgconf", "gpg-agent")
    import subprocess
    import tempfile

    from tests.component import git_lab

    with tempfile.TemporaryDirectory(prefix="gpg") as home:
        env = {"PATH": os.environ["PATH"], "GNUPGHOME": home, "HOME": home}

        def gpg(*arguments: str) -> bytes:
            return subprocess.run(
                ["gpg", "--batch", "--quiet", *arguments],
                env=env,
                check=True,
                capture_output=True,
                timeout=60,
            ).stdout

        usual = git_lab.environment
        monkeypatch.setattr(git_lab, "environment", lambda: {**usual(), "GNUPGHOME": home})
        try:
            for name in ("ann", "eve"):
                gpg(
                    "--passphrase",
                    "",
                    "--quick-generate-key",
                    f"{name}@example.org",
                    "ed25519",
                    "sign",
                    "never",
                )
            keys = tmp_path / "keys.asc"
            keys.write_bytes(gpg("--armor", "--export", "ann@example.org"))
            repository.sign_with(Path("ann@example.org"), "openpgp")
            signed = repository.commit()
            lab = Lab(tmp_path / "data", repository.path, Access(allowed_keys=keys))
            reading = await lab.source.load()
            assert (lab.version, lab.codes) == (signed[:12], [])
            assert reading.commit is not None
            assert (reading.commit.signed_by or "").startswith("ann@example.org (")
            repository.sign_with(Path("eve@example.org"), "openpgp")
            repository.commit({"services/orders.yaml": ORDERS})
            await lab.source.look()
            assert (lab.version, lab.codes) == (signed[:12], ["VST3224"])
        finally:
            subprocess.run(["gpgconf", "--kill", "all"], env=env, check=False, timeout=20)


# ------------------------------------------------------------------------------------ hostile repositories


async def test_nothing_that_a_repository_holds_is_run_or_followed(
    tmp_path: Path, repository: Repository
) -> None:
    trap = tmp_path / "sprung"
    commit = repository.commit(
        {
            ".gitattributes": "*.yaml filter=evil diff=evil export-subst\n",
            ".gitmodules": '[submodule "x"]\n\tpath = x\n\turl = https://example.org/x\n',
            ".gitconfig": f"[core]\n\thooksPath = {trap}\n",
            "services/orders.yaml": ORDERS,
        }
    )
    for name in ("post-checkout", "reference-transaction", "post-update", "pre-receive"):
        hook = repository.path / ".git" / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {trap}\n")
        hook.chmod(0o755)
    commands = (
        "core.fsmonitor",
        "core.sshCommand",
        "uploadpack.packObjectsHook",
        "core.pager",
        "diff.external",
    )
    for name in (*commands, "filter.evil.smudge"):
        repository.git("config", name, f"touch {trap}")
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    assert lab.version == commit[:12]
    assert not trap.exists()
    assert not list((lab.data / "mirror.git").glob("hooks/*"))


async def test_links_and_submodules_are_no_intent(tmp_path: Path, repository: Repository) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text(WEB)
    (repository.path / "services" / "link.yaml").symlink_to(secret)
    commit = repository.commit()
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},services/module.yaml")
    repository.git("commit", "-q", "-m", "a submodule")
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    assert lab.version is None
    told = {str(each.where).partition(":")[2]: each.message for each in lab.source.reading.problems}
    assert told == {
        "services/link.yaml": "this is no regular file",
        "services/module.yaml": "this is no regular file",
    }


async def test_huge_files_and_strange_names_are_bounded(tmp_path: Path, repository: Repository) -> None:
    huge, web, mesh = (
        repository.blob(content) for content in (b"#" * 20_000_000, WEB.encode(), MESH.encode())
    )
    files = {"huge.yaml": huge, "web.yaml": web, "a\x1b[2J.yaml": web}
    listed = "".join(f"100644 blob {found}\t{name}\0" for name, found in files.items())
    services = repository.git("mktree", "-z", stdin=listed.encode())
    repository.commit_tree(f"100644 blob {mesh}\tmesh.yaml\n040000 tree {services}\tservices\n")
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    told = "\n".join(str(each.error) for each in lab.source.reading.problems)
    assert f"services/huge.yaml: VST0002 the file is larger than {MAX_BYTES} bytes" in told
    assert "\x1b" not in told


async def test_a_subject_cannot_write_on_the_terminal(tmp_path: Path, repository: Repository) -> None:
    repository.commit({"services/orders.yaml": ORDERS}, "red\x1b[31m\x07 and " + "long " * 100)
    lab = Lab(tmp_path / "data", repository.path)
    reading = await lab.source.load()
    assert reading.commit is not None
    assert reading.commit.subject.startswith("red?[31m?")
    assert len(reading.commit.subject) == 200


async def test_replaced_objects_are_not_looked_at(tmp_path: Path, repository: Repository) -> None:
    lab = Lab(tmp_path / "data", repository.path)
    await lab.source.load()
    good = repository.git("rev-parse", "HEAD:services/web.yaml")
    evil = repository.blob(WEB.replace("allow: []", "allow: [{id: a, from: [web]}]").encode())
    repository.git("replace", good, evil)
    repository.commit({"services/orders.yaml": ORDERS})
    await lab.source.look()
    assert lab.source.reading.files["services/web.yaml"] == WEB.encode()
