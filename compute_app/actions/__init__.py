"""What may be asked for. Each action is one transaction."""

from compute_app.actions.networks import network_create, network_delete
from compute_app.actions.vms import (
    Deployment,
    vm_change,
    vm_console,
    vm_deploy,
    vm_destroy,
    vm_expunge_overdue,
    vm_reboot,
    vm_recover,
    vm_restart_after_boot,
    vm_resume,
    vm_start,
    vm_stop,
)
from compute_app.actions.volumes import (
    NewVolume,
    volume_attach,
    volume_create,
    volume_delete,
    volume_detach,
    volume_resize,
)

__all__ = [
    "Deployment",
    "NewVolume",
    "network_create",
    "network_delete",
    "vm_change",
    "vm_console",
    "vm_deploy",
    "vm_destroy",
    "vm_expunge_overdue",
    "vm_reboot",
    "vm_recover",
    "vm_restart_after_boot",
    "vm_resume",
    "vm_start",
    "vm_stop",
    "volume_attach",
    "volume_create",
    "volume_delete",
    "volume_detach",
    "volume_resize",
]
