"""User data, SSH keys and names that are full of traps, tried with a real guest."""

import base64
import json
import struct
from pathlib import Path

from tests.lab.inside import inside
from tests.lab.waiting import poll
from tests.scenarios.cloud import MEBIBYTE, Cloud, Row

TRAPS = "\"double\" 'single' `id` $(id) ;|&> \\ <b>&amp;</b> ]]> {{7*7}} %s ../../etc \u202eright\u200fto left 日本 🐧"
# A name may not turn the text around it.
NAMES = [TRAPS.replace("\u202e", ""), "--name=-rf", "n" * 255, "</title><script>alert(1)</script>"]
BLOB = struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 32) + bytes(range(32))
KEY = f'ssh-ed25519 {base64.b64encode(BLOB).decode()} o\'brien "<b>$(id)"'
ROOT_BYTES = 96 * MEBIBYTE


def user_data() -> str:
    """64 KiB of it, to the byte."""
    script = f"#!/bin/sh\n# {TRAPS}\r\n\nwc -c < /seed/user-data > /var/run/length\nexit 7\n# \x7f\t"
    return script + "x" * (65536 - len(script.encode()) - 2) + " \n"


def texts_about(vm: Row) -> str:
    """Every command line of this machine, in one."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    mine = [line for line in lines if vm["id"] in line]
    assert mine, "the VM's QEMU runs on this machine"
    return "\n".join(mine)


def test_a_guest_gets_what_its_user_gave_and_nothing_else_does(cloud: Cloud) -> None:
    template, given = cloud.template(), user_data()
    fields = {"user_data": given, "ssh_keys": [KEY], "root_size_bytes": ROOT_BYTES}
    vm = cloud.booted(cloud.vm(template, name=NAMES[0], **fields))
    with inside(cloud.lab, vm) as guest:
        poll(lambda: guest.run("/bin/cat", "/var/run/length").strip() == "65536", 30, "the user data has run")
        assert guest.read("/seed/user-data") == given.encode()
        described = json.loads(guest.read("/seed/meta-data"))
        assert described["instance-id"] == vm["id"]
        assert described["public-keys"] == [KEY]
        assert guest.read("/root/.ssh/authorized_keys").decode().startswith(f"ssh-ed25519 {KEY.split()[1]}")
        # The root disk is larger than the template that it was made from.
        assert int(guest.read("/sys/block/vda/size")) * 512 == ROOT_BYTES
        xml = guest.domain.XMLDesc()
    assert "<b>" not in xml
    assert "alert" not in xml
    running = texts_about(vm)
    assert not [trap for trap in ("o'brien", "$(id)", "right", "日本", "single") if trap in running]
    logs = "".join(path.read_text(errors="replace") for path in cloud.lab.log_dir.glob("*.log"))
    assert "o'brien" not in logs
    root = Path(cloud.client.get(f"volumes/{vm['volumes'][0]}/")["path"])
    assert (root.parent / f"seed-{vm['id']}.iso").stat().st_mode & 0o777 == 0o600

    cloud.settled(cloud.stop(vm, force=True))
    cloud.settled(cloud.start(vm))
    with inside(cloud.lab, cloud.booted(vm)) as guest:
        poll(lambda: guest.run("/bin/cat", "/var/run/length").strip() == "65536", 30, "the user data has run")
    cloud.settled(cloud.destroy(vm))
    assert not [path for path in root.parent.iterdir() if vm["id"] in path.name]


def test_no_name_is_taken_for_anything_else(cloud: Cloud) -> None:
    template = cloud.template()
    for name in NAMES:
        vm = cloud.vm(template, name=name, user_data="#!/bin/sh\nhostname\n")
        assert vm["name"] == name
        with inside(cloud.lab, vm) as guest:
            assert guest.domain.name() == f"vm-{vm['id']}"
        cloud.settled(cloud.destroy(vm))
