"""Removing images: never one that a QEMU has open, never anything outside of the pool, nowhere else in the agent."""

import ast
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agents.common.errors import CommandError
from agents.hypervisor import images
from agents.hypervisor.images import check_removable, image_path, remove_image, temporary_files, temporary_name
from tests.lab.waiting import poll

ROOT = Path(__file__).parents[4]


@contextmanager
def qemu_on(*chain: Path) -> Iterator[None]:
    """A QEMU machine, not yet running, that has the first file open as its disk, with its backing files."""
    command = [
        "qemu-system-x86_64",
        "-S",
        "-M",
        "pc",
        "-m",
        "16",
        "-display",
        "none",
        "-nodefaults",
        "-monitor",
        "stdio",
    ]
    disk = ["-drive", f"if=virtio,format=qcow2,file={chain[0]}"]
    with subprocess.Popen(
        [*command, *disk], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as qemu:
        try:
            poll(lambda: all(has_open(qemu.pid, path) for path in chain), 10, f"QEMU has {chain} open")
            yield
        finally:
            qemu.kill()


def has_open(pid: int, path: Path) -> bool:
    links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
    locks = Path("/proc/locks").read_text()
    return path in links and f":{path.stat().st_ino} " in locks


def make_image(path: Path, backing: Path | None = None) -> Path:
    behind = ["-F", "qcow2", "-b", str(backing)] if backing else []
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *behind, str(path), "1M"], check=True)
    return path


def code_of(path: Path, pool: Path) -> str:
    with pytest.raises(CommandError) as caught:
        remove_image(path, pool)
    return caught.value.problem.code


def test_an_unused_image_is_removed_once(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.qcow2")
    assert remove_image(image, tmp_path) is True
    assert not image.exists()
    assert remove_image(image, tmp_path) is False


def test_an_image_in_a_chain_that_qemu_has_open_stays(tmp_path: Path) -> None:
    base = make_image(tmp_path / "base.qcow2")
    top = make_image(tmp_path / "top.qcow2", base)
    with qemu_on(top, base):
        for image in (top, base):
            assert code_of(image, tmp_path) == "image_in_use"
            with pytest.raises(CommandError, match=r"has .* open"):
                check_removable(image, tmp_path)
            assert image.exists()
    assert remove_image(top, tmp_path)
    assert remove_image(base, tmp_path)


def test_an_image_that_a_tool_reads_stays(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.qcow2")
    with subprocess.Popen(
        ["qemu-io", "-r", "-f", "qcow2", image], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tool:
        try:
            poll(lambda: has_open(tool.pid, image), 10, "qemu-io has the image open")
            assert code_of(image, tmp_path) == "image_in_use"
        finally:
            tool.kill()
    assert remove_image(image, tmp_path)


def test_a_qemu_that_comes_meanwhile_is_refused_the_image(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.qcow2")
    command = ["qemu-io", "-f", "qcow2", "-c", "quit", str(image)]
    with images._held(image, tmp_path):
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "lock" in refused.stderr
    assert subprocess.run(command, check=False).returncode == 0


def test_looking_whether_it_can_be_removed_changes_nothing(tmp_path: Path) -> None:
    image = make_image(tmp_path / "a.qcow2")
    check_removable(image, tmp_path)
    check_removable(tmp_path / "missing", tmp_path)
    assert image.exists()


def test_what_is_not_a_file_of_the_pool_is_refused(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    (pool / "folder").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (pool / "folder/inner").touch()
    (pool / "link").symlink_to(tmp_path / "outside")
    os.mkfifo(pool / "pipe")
    for path in (tmp_path / "outside", pool / "folder/inner", pool / "folder", pool / "link", pool / "pipe"):
        assert code_of(path, pool) == "image_refused"
        assert os.path.lexists(path)
    assert code_of(pool / "../outside", pool) == "image_refused"
    assert code_of(Path("pool/x"), Path("pool")) == "image_refused"


@pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/passwd", "a\nb", "x" * 256])
def test_a_name_that_leads_out_of_the_pool_is_refused(name: str) -> None:
    with pytest.raises(CommandError, match="refused"):
        image_path("/pool", name)


def test_only_the_temporary_files_of_that_name_are_found(tmp_path: Path) -> None:
    names = [temporary_name("a.qcow2", "c1", 1), temporary_name("a.qcow2", "c1", 10)]
    for name in (
        *names,
        "a.qcow2",
        temporary_name("b.qcow2", "c2", 1),
        ".a.qcow2.swp",
        temporary_name("a.qcow2.gz", "c1", 1),
    ):
        (tmp_path / name).touch()
    assert temporary_files(tmp_path, "a.qcow2") == [tmp_path / name for name in names]
    assert temporary_files(tmp_path, "a.qcow2", "c2") == []


REMOVERS = {
    "agents/hypervisor/images.py": "the one place that removes images",
    "agents/common/files.py": "its own temporary file, and the old name of a rename",
    "agents/journal.py": "files of the journal",
    "agents/state.py": "unfinished files of the agent's state folder",
}
"""The only modules that may remove files at all, and what."""

REMOVING = {"unlink", "rmtree", "rmdir", "removedirs"}


def test_no_other_code_removes_files() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "agents").rglob("*.py")
        if any(_removes(node) for node in ast.walk(ast.parse(path.read_text())))
    }
    assert found == set(REMOVERS)


def _removes(node: ast.AST) -> bool:
    """A call of a name that removes files; ``remove`` of lists and sets only counts as one of ``os``."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute | ast.Name):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
    if name == "remove":
        return ast.unparse(node.func) == "os.remove"
    return name in REMOVING
