"""What the tests make at once is what a deployment would have made."""

from typing import Any

import pytest

from compute_app.models import VM, Volume, VolumeFile
from infra_app.models import Agent, StoragePool
from templates_app.models import Template
from tests.unit.compute_app.cloud import MIB, deployed, existing
from tests.unit.templates_app.fleet import Fleet


@pytest.mark.parametrize("runs", [True, False])
def test_a_vm_and_its_volumes(fleet: Fleet, template: Template, host: Agent, pool: StoragePool, runs: bool) -> None:
    said = deployed(fleet, template, data_disk_sizes=[MIB], start=runs)
    made = existing(fleet, template, pool, host if runs else None)
    assert rows(made) == rows(said)


def rows(vm: VM) -> list[dict[str, Any]]:
    volumes = Volume.objects.filter(vm=vm).order_by("device_index")
    files = VolumeFile.objects.filter(volume__vm=vm).order_by("volume__device_index")
    return [plain(row, vm) for row in (VM.objects.get(pk=vm.pk), *volumes, *files)]


def plain(row: Any, vm: VM) -> dict[str, Any]:
    """All fields but those that differ between any two rows, and the number of looks, which starts at none."""
    different = {"id", "created_at", "vm_id", "top_id", "volume_id", "file_name", "facts_epoch", "facts_number"}
    names = {field.attname for field in row._meta.concrete_fields} - different
    return {name: getattr(row, name) for name in names}
