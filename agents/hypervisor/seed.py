"""A cloud-init seed: an ISO labelled ``cidata`` with ``meta-data`` and ``user-data``.

Format: cloud-init's documentation, "NoCloud", source configuration by a labelled file system. There is no
``network-config``: guests take their addresses by DHCP.
"""

import io
import json
from collections.abc import Mapping, Sequence

import pycdlib

LABEL = "cidata"
PADDING = bytes(150 * 2048)
"""Behind the image, as genisoimage has it: who looks for a label reads more than a small image has (busybox 68 KiB)."""


def meta_data(vm_id: str, local_hostname: str, ssh_keys: Sequence[str]) -> bytes:
    """YAML, written as the JSON that it contains: nothing in a key or name can be anything but text."""
    content = {"instance-id": vm_id, "local-hostname": local_hostname, "public-keys": list(ssh_keys)}
    return json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"


def iso(files: Mapping[str, bytes]) -> bytes:
    """The image. Names are read by Rock Ridge and by Joliet, as they are given."""
    image = pycdlib.PyCdlib()
    image.new(interchange_level=3, vol_ident=LABEL, joliet=3, rock_ridge="1.09")
    for number, (name, content) in enumerate(files.items()):
        image.add_fp(
            io.BytesIO(content), len(content), iso_path=f"/FILE{number}.;1", rr_name=name, joliet_path=f"/{name}"
        )
    written = io.BytesIO()
    image.write_fp(written)
    image.close()
    return written.getvalue() + PADDING
