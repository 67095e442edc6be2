"""The world is older or newer than the database, and a file system that does not answer."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import libvirt
import pytest

from tests.crash.outcomes import Outcomes
from tests.crash.scene import BACK_SECONDS, Scene, Stopwatch
from tests.lab import process
from tests.lab.client import ApiError
from tests.lab.waiting import poll
from tests.scenarios.cloud import Row

POINT = "volume_create.during_create"


# --- an orphaned qemu-img ------------------------------------------------------------------------------------------


def run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True)


@pytest.fixture(scope="session")
def own_pool(crash_scene: Scene) -> Iterator[Row]:
    """A pool on a file system of its own, which a test can freeze as a dead file server would."""
    scene = crash_scene
    image, folder = scene.lab.dir / "ext4", scene.lab.dir / "freezable"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(256 << 20)
    run("mkfs.ext4", "-q", "-m", "0", image)
    run("mount", "-o", "loop", image, folder)
    (folder / "pool").mkdir()
    body = {"name": "freezable", "zone": scene.cloud.zone, "type": "shared", "path": str(folder / "pool")}
    pool = scene.cloud.client.post("storage-pools/", body)
    scene.lab.pools.append(pool)
    yield pool
    run("umount", folder)


@contextmanager
def frozen(folder: Path) -> Iterator[Callable[[], None]]:
    """Whoever writes there waits, and no signal ends him. Gives what lets it answer again."""
    run("fsfreeze", "-f", folder)
    thawed: list[bool] = []

    def thaw() -> None:
        if not thawed:
            run("fsfreeze", "-u", folder)
            thawed.append(True)

    try:
        yield thaw
    finally:
        thaw()


def qemu_imgs(folder: str) -> list[process.Identity]:
    living = [entry.identity for entry in process.table() if not entry.zombie]
    return [one for one in living if _is_qemu_img(one.pid, folder)]


def _is_qemu_img(pid: int, folder: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return False
    return words[0] == "qemu-img" and any(word.startswith(folder) for word in words)


def test_nothing_is_decided_while_an_orphaned_qemu_img_may_still_write(
    scene: Scene, outcomes: Outcomes, own_pool: Row
) -> None:
    scene.cloud.wait_pings(scene.host.name, 2)
    scene.cloud.settled(scene.cloud.prepare(scene.template, own_pool))
    scene.begin()
    with frozen(Path(own_pool["path"]).parent) as thaw:
        scene.points.arm(POINT, "kill")
        operation = scene.cloud.deploy(scene.template, host=scene.host.id, pool=own_pool["id"], start=False)
        scene.points.wait_killed(POINT)
        since = Stopwatch()
        # Its parent may be killed between its fork and its exec.
        (orphan,) = poll(lambda: qemu_imgs(own_pool["path"]), 5, "the orphan is qemu-img")
        scene.wait_back()

        def asked() -> Row | None:
            (command,) = scene.cloud.commands(operation)
            said = (command["evidence"] or {}).get("status")
            return command if said == "cannot_tell" else None

        command = poll(asked, BACK_SECONDS, "the host cannot tell")
        assert process.is_alive(orphan)
        assert str(orphan.pid) in command["evidence"]["reason"]
        assert command["attempt"] == 1
        thaw()
        thawed = Stopwatch()
        assert process.wait_gone([orphan], 10) == []
    # A question that is under way waits ten seconds for the orphan's end before it is asked anew.
    ended = scene.cloud.settled(operation, 15)
    seconds = since.seconds
    assert thawed.seconds < 15
    scene.cloud.settled(scene.cloud.destroy(ended["target"]))
    scene.assert_whole(restarts=1)
    outcome = f"{ended['state']}, {scene.how(ended, 'volume.create')}, once the orphan had ended"
    what = "the agent, SIGKILL; its qemu-img waits for a dead file system"
    outcomes.add("volume create", what, f"at `{POINT}`", outcome, seconds)


# --- a database that was restored ----------------------------------------------------------------------------------

SERVER = ("web", "control", "beat")


class Backup:
    """Copies of the database's files, taken and put back while nobody uses it."""

    def __init__(self, scene: Scene, folder: Path) -> None:
        self._scene = scene
        self._database: Path = scene.lab.database.folder
        self._folder = folder

    def take(self, name: str) -> None:
        with self._stopped():
            self._copy(self._database, self._folder / name)

    def restore(self, name: str) -> None:
        with self._stopped():
            shutil.rmtree(self._database)
            self._copy(self._folder / name, self._database)

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        supervisor = self._scene.supervisor
        parts = [*SERVER, *(["postgres"] if "postgres" in supervisor.pids() else [])]
        last_ping = self._scene.last_ping
        supervisor.stop(*parts)
        try:
            yield
        finally:
            for part in reversed(parts):
                supervisor.release(part)
            self._scene.lab.servers[0].wait_answering()
        self._scene.wait_heard(last_ping)

    @staticmethod
    def _copy(source: Path, target: Path) -> None:
        # With its owner: PostgreSQL runs as another user. Without sockets, which nobody can copy.
        run("cp", "--archive", source, target)


@pytest.fixture
def backup(scene: Scene, tmp_path: Path) -> Backup:
    return Backup(scene, tmp_path)


def domains(scene: Scene) -> set[str]:
    connection = libvirt.open(scene.host.hypervisor.uri)
    try:
        return {domain.UUIDString() for domain in connection.listAllDomains()}
    finally:
        connection.close()


@pytest.mark.timeout(600)
def test_a_database_restored_to_before_a_deployment_deletes_nothing(
    scene: Scene, outcomes: Outcomes, backup: Backup
) -> None:
    template = scene.template
    scene.begin()
    backup.take("before")
    vm = scene.cloud.booted(scene.deployed())
    (volume,) = vm["volumes"]
    path = Path(scene.cloud.client.get(f"volumes/{volume}/")["path"])
    scene.wait_quiet()
    backup.take("after")
    accepted = scene.points.passed("accept.before_journal")
    since = Stopwatch()
    backup.restore("before")
    try:
        row = scene.cloud.client.wait(f"hosts/{scene.host.id}/", lambda host: host["ahead"], BACK_SECONDS)
        assert row["state"] == "up"
        assert scene.cloud.client.get(f"zones/{scene.cloud.zone}/")["deletions_suspended"]
        assert scene.cloud.client.list("events/", kind="agent.ahead", target=scene.host.id)
        seconds = since.seconds
        with pytest.raises(ApiError) as refused:
            scene.cloud.deploy(template)
        assert refused.value.status == 409
        url = scene.lab.mirror.url(scene.cloud.serve())
        registration = scene.cloud.register(url)
        scene.cloud.wait_pings(scene.host.name, 3)
        assert scene.cloud.client.get(f"operations/{registration['id']}/")["state"] in ("pending", "failed")
        # Nothing was sent to it, and what the database does not know was left alone.
        assert scene.points.passed("accept.before_journal") == accepted
        assert vm["id"] in domains(scene)
        assert path.exists()
    finally:
        backup.restore("after")
    scene.cloud.booted(vm)
    scene.cloud.settled(scene.cloud.destroy(vm))
    scene.assert_whole(restarts=0)
    outcome = "the host is ahead: nothing is sent to it, nothing deleted, the VM runs on"
    outcomes.add("deploy", "the database, restored", "to before the deployment", outcome, seconds)
