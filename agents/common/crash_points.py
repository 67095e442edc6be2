"""The registry of crash points: name → what has just happened, or is about to happen.

The first word is the part it belongs to: ``accept``, ``execute``, ``report``, ``acknowledge`` are passed by every
command, the others by one kind. The crash suite reaches each of them and shows that it is survived.
"""

from collections.abc import Mapping

CRASH_POINTS: Mapping[str, str] = {
    "accept.before_journal": "a command arrived, nothing of it is on disk",
    "accept.after_journal": "the command is on disk as QUEUED, the executor does not know of it",
    "execute.before_started": "taken from its lane, the attempt is not yet marked as begun",
    "execute.after_started": "marked STARTED, no effect yet",
    "execute.before_answer": "all effects are done, the answer is not on disk",
    "execute.after_answer": "the answer is on disk, not reported",
    "report.after_publish": "the answer was published, not acknowledged",
    "acknowledge.before_removal": "the acknowledgement arrived, the journal still has the command",
    "acknowledge.after_removal": "the journal has let the command go",
    "template_download.before_temporary": "checked, nothing written",
    "template_download.midway": "some of the body is on disk",
    "template_download.before_verify": "the whole body is on disk, not compared with its checksum",
    "template_download.before_rename": "verified, inspected and synced, still under its temporary name",
    "template_download.after_rename": "under its final name, the answer is not on disk",
    "volume_create.before_create": "checked, nothing written",
    "volume_create.during_create": "qemu-img runs",
    "volume_create.before_rename": "made and verified, still under its temporary name",
    "volume_create.after_rename": "under its final name, the answer is not on disk",
    "seed_create.before_create": "nothing written",
    "seed_create.before_rename": "written and synced, still under its temporary name",
    "seed_create.after_rename": "under its final name, the answer is not on disk",
    "vm_start.before_define": "chains compared, the domain does not exist",
    "vm_start.after_start": "the domain runs, its description is not yet compared",
    "vm_stop.before_request": "the domain runs, nothing was asked",
    "vm_stop.after_request": "libvirt was asked, the domain may be gone",
    "vm_reboot.before_request": "the domain runs, nothing was asked",
    "vm_reboot.after_request": "libvirt was asked, the guest may boot already; no note says so",
    "vm_reboot.after_reboot": "the guest boots, the answer is not on disk",
    "vm_resume.before_request": "the domain is paused, nothing was asked",
    "vm_resume.after_request": "libvirt was asked, the domain may run again",
    "vm_console.before_read": "nothing was read",
    "volume_attach.before_attach": "compared with what is recorded, libvirt was not asked",
    "volume_attach.after_attach": "the running VM has the disk, the answer is not on disk",
    "volume_detach.before_request": "the running VM has the disk, nothing was asked",
    "volume_detach.after_request": "the guest was asked to let go of the disk, it may be gone",
    "volume_resize.before_resize": "compared with what is recorded, the file has its old size",
    "volume_resize.during_resize": "qemu-img runs",
    "volume_resize.after_resize": "the file has its new size, the answer is not on disk",
    "volume_resize_live.before_request": "the running VM has the disk in its old size, libvirt was not asked",
    "volume_resize_live.after_request": "the running VM has the disk in its new size, the answer is not on disk",
    "volume_remove.before_removal": "the file is there",
    "volume_remove.after_removal": "the file is gone, the answer is not on disk",
    "template_remove.before_removal": "the file is there",
    "template_remove.after_removal": "the file is gone, the answer is not on disk",
}
