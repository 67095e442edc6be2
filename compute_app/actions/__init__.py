"""What may be asked for. Each action is one transaction."""

from compute_app.actions.vms import (
    Deployment,
    vm_console,
    vm_deploy,
    vm_destroy,
    vm_expunge_overdue,
    vm_reboot,
    vm_recover,
    vm_resume,
    vm_start,
    vm_stop,
)

__all__ = [
    "Deployment",
    "vm_console",
    "vm_deploy",
    "vm_destroy",
    "vm_expunge_overdue",
    "vm_reboot",
    "vm_recover",
    "vm_resume",
    "vm_start",
    "vm_stop",
]
