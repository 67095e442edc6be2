"""What the operations of this room do, step by step."""

from compute_app.workflows.vms import DeployVM, DestroyVM, ReadVMConsole, RebootVM, ResumeVM, StartVM, StopVM
from compute_app.workflows.volumes import AttachVolume, CreateVolume, DeleteVolume, DetachVolume, ResizeVolume
from operations_app.workflow import Workflow

WORKFLOWS: tuple[type[Workflow], ...] = (
    DeployVM,
    StartVM,
    StopVM,
    RebootVM,
    ResumeVM,
    ReadVMConsole,
    DestroyVM,
    CreateVolume,
    AttachVolume,
    DetachVolume,
    ResizeVolume,
    DeleteVolume,
)
