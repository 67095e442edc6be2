"""VMs, volumes and volume files in the admin."""

from collections.abc import Callable, Iterable
from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.utils.html import format_html
from django.utils.safestring import SafeString

from accounts_app.models import User
from accounts_app.owners import account_for
from compute_app import actions
from compute_app.api.networks import NetworkSerializer
from compute_app.api.vms import NewVMSerializer, VMChangeSerializer, destruction_plan, files_to_remove
from compute_app.api.volumes import AttachSerializer, NewVolumeSerializer, ResizeSerializer
from compute_app.models import VM, Network, Volume, VolumeFile
from core_app.console import cells
from core_app.console.pages import Panel, RoomAdmin, button
from core_app.dry_run import deletion_plan
from infra_app.admin import HostAdmin, StoragePoolAdmin
from infra_app.models import Host, StoragePool
from operations_app.admin import happenings_of, operations_of
from operations_app.models import Operation
from templates_app.admin import TemplateAdmin
from templates_app.models import Template

ROWS_SHOWN = 50
CONSOLE_LINES = 200
_VM_COLUMNS = ("VM", "State", "Guest agent", "Memory", "Host")
_VOLUME_COLUMNS = ("Volume", "Device", "State", "Size", "Pool", "File")

State = VM.State
DESTROYABLE = (State.STOPPED, State.RUNNING, State.ERROR)


def _in(*states: str) -> Callable[[VM], bool]:
    return lambda vm: vm.state in states


def vm_rows(vms: QuerySet[VM]) -> list[tuple[object, ...]]:
    return [
        (
            cells.link(vm),
            cells.badge(vm.state),
            cells.badge(vm.guest_agent),
            cells.size(vm.memory_bytes),
            cells.link(vm.host),
        )
        for vm in vms.select_related("host__agent")[:ROWS_SHOWN]
    ]


def volume_rows(volumes: QuerySet[Volume]) -> list[tuple[object, ...]]:
    return [
        (
            cells.link(volume),
            volume.device,
            cells.badge(volume.state),
            cells.size(volume.size_bytes),
            cells.link(volume.pool),
            cells.mono(volume.top.path if volume.top else ""),
        )
        for volume in volumes.select_related("pool", "top__volume__pool")[:ROWS_SHOWN]
    ]


@admin.register(VM)
class VMAdmin(RoomAdmin):
    list_display = ("name", "state_badge", "guest_badge", "host", "cpus", "memory", "account", "made")
    list_filter = ("state", "guest_agent", "zone")
    list_select_related = ("account", "host__agent")
    facts = ("state_badge", "power", "guest_badge", "told", "host", "last_host", "restart_after_boot", "zone",
             "template", "account", "cpus", "memory", "made", "uid")  # fmt: skip
    live = True

    @admin.display(description="state")
    def state_badge(self, vm: VM) -> SafeString:
        return cells.badge(vm.state)

    @admin.display(description="guest agent")
    def guest_badge(self, vm: VM) -> SafeString:
        return cells.badge(vm.guest_agent)

    @admin.display(description="power, as its host sees it")
    def power(self, vm: VM) -> str:
        return f"{vm.power_state} ({vm.power_reason})" if vm.power_reason else vm.power_state

    @admin.display(description="addresses, as its guest says")
    def told(self, vm: VM) -> str:
        return ", ".join(vm.addresses)

    @admin.display
    def memory(self, vm: VM) -> SafeString:
        return cells.size(vm.memory_bytes)

    @admin.display(description="made")
    def made(self, vm: VM) -> SafeString:
        return cells.when(vm.created_at)

    @admin.display(description="id")
    def uid(self, vm: VM) -> SafeString:
        return cells.mono(vm.pk)

    def panels(self, row: VM) -> Iterable[Panel]:
        volumes = row.volumes.exclude(state=Volume.State.REMOVED).order_by("device_index")
        yield Panel("Volumes", _VOLUME_COLUMNS, volume_rows(volumes), css="wide")
        nics = row.nics.select_related("network")
        yield Panel(
            "Network cards", ("Network", "Address"), [(cells.link(nic.network), cells.mono(nic.mac)) for nic in nics]
        )
        yield _console(row)
        yield from operations_of(row)
        yield from happenings_of(row)

    @button("Deploy VM", takes=NewVMSerializer, on_list=True)
    def deploy(self, user: User, fields: dict[str, Any]) -> VM:
        disks = [disk["size_bytes"] for disk in fields.pop("data_disks", ())]
        account = account_for(user, fields.pop("account", None))
        vm, _ = actions.vm_deploy(actions.Deployment(account=account, data_disk_sizes=disks, **fields), user)
        return vm

    @button("Start", when=_in(State.STOPPED))
    def start(self, user: User, vm: VM) -> None:
        actions.vm_start(vm, user)

    @button("Stop", when=_in(State.RUNNING))
    def stop(self, user: User, vm: VM) -> None:
        actions.vm_stop(vm, force=False, user=user)

    @button("Reboot", when=_in(State.RUNNING))
    def reboot(self, user: User, vm: VM) -> None:
        actions.vm_reboot(vm, force=False, user=user)

    @button("Resume", when=lambda vm: vm.state == State.RUNNING and vm.power_state == "paused")
    def resume(self, user: User, vm: VM) -> None:
        actions.vm_resume(vm, user)

    @button("Read console", when=lambda vm: vm.state != State.EXPUNGED)
    def console(self, user: User, vm: VM) -> None:
        actions.vm_console(vm, lines=CONSOLE_LINES, user=user)

    @button("Recover", when=_in(State.DESTROYED))
    def recover(self, user: User, vm: VM) -> None:
        actions.vm_recover(vm)

    @button("After a boot", takes=VMChangeSerializer)
    def change(self, user: User, vm: VM, fields: dict[str, Any]) -> None:
        actions.vm_change(vm, **fields)

    @button(
        "Power off",
        danger=True,
        when=_in(State.RUNNING),
        asks="Its power is taken away as if its plug were pulled: what the guest has not written is lost.",
    )
    def power_off(self, user: User, vm: VM) -> None:
        actions.vm_stop(vm, force=True, user=user)

    @button(
        "Destroy",
        danger=True,
        previews=destruction_plan,
        when=_in(*DESTROYABLE),
        asks="Its power is taken away. Its volumes are kept until it is expunged.",
    )
    def destroy(self, user: User, vm: VM) -> Operation:
        return actions.vm_destroy(vm, expunge=False, user=user)

    @button(
        "Expunge",
        danger=True,
        previews=destruction_plan,
        when=_in(*DESTROYABLE, State.DESTROYED),
        asks="Its power is taken away and its volumes are removed, for good.",
    )
    def expunge(self, user: User, vm: VM) -> Operation:
        return actions.vm_destroy(vm, expunge=True, user=user)


def _console(vm: VM) -> Panel:
    """What the serial console said when it was last read."""
    last = Operation.objects.filter(kind="vm.console", target_id=vm.pk).first()
    if last is None:
        return Panel(
            "Serial console", empty="Not read yet: the button Read console fetches its last lines.", css="wide"
        )
    text = (last.result or {}).get("text")
    shown = (
        cells.problem(last.error) if text is None else format_html('<pre class="console">{}</pre>', text or "(empty)")
    )
    told = format_html("<p>Read {} {}</p>{}", cells.ago(last.created_at), cells.badge(last.state), shown)
    return Panel("Serial console", body=told, css="wide", more=("The reading", cells.url_of(last)))


def _ready(volume: Volume) -> bool:
    return volume.state == Volume.State.READY


def _size_now(volume: Volume) -> dict[str, Any]:
    return {"size_bytes": volume.size_bytes}


def _volume_removal(operation: Operation) -> dict[str, Any]:
    return deletion_plan(files_to_remove(Volume.objects.get(pk=operation.target_id)))


@admin.register(Volume)
class VolumeAdmin(RoomAdmin):
    list_display = ("name", "state_badge", "size_cell", "vm", "device", "pool", "account", "made")
    list_filter = ("state",)
    list_select_related = ("account", "vm", "pool")
    facts = ("state_badge", "size_cell", "vm", "device", "pool", "account", "made", "uid")
    live = True

    @admin.display(description="state")
    def state_badge(self, volume: Volume) -> SafeString:
        return cells.badge(volume.state)

    @admin.display(description="size")
    def size_cell(self, volume: Volume) -> SafeString:
        return cells.size(volume.size_bytes)

    @admin.display(description="made")
    def made(self, volume: Volume) -> SafeString:
        return cells.when(volume.created_at)

    @admin.display(description="id")
    def uid(self, volume: Volume) -> SafeString:
        return cells.mono(volume.pk)

    def panels(self, row: Volume) -> Iterable[Panel]:
        files = row.files.select_related("volume__pool", "backing", "backing_placement").order_by("created_at", "pk")
        yield Panel(
            "Chain of files",
            ("File", "Format", "Size for the guest", "Backed by"),
            [
                (
                    cells.mono(one.path),
                    one.format,
                    cells.size(one.virtual_size_bytes),
                    cells.link(one.backing_placement) if one.backing_placement else (one.backing or cells.NOTHING),
                )
                for one in files[:ROWS_SHOWN]
            ],
            css="wide",
        )
        yield from operations_of(row)
        yield from happenings_of(row)

    @button("New volume", takes=NewVolumeSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> Volume:
        account = account_for(user, fields.pop("account", None))
        volume, _ = actions.volume_create(actions.NewVolume(account=account, **fields), user)
        return volume

    @button("Attach", takes=AttachSerializer, when=lambda volume: _ready(volume) and volume.vm_id is None)
    def attach(self, user: User, volume: Volume, **fields: Any) -> None:
        actions.volume_attach(volume, fields["vm"], user)

    @button(
        "Detach",
        when=lambda volume: _ready(volume) and volume.vm_id is not None and volume.device_index > 0,
        asks="A guest that runs is asked to let go of it: unmount it there first.",
    )
    def detach(self, user: User, volume: Volume) -> None:
        actions.volume_detach(volume, user)

    @button("Resize", takes=ResizeSerializer, when=_ready, begins=_size_now)
    def resize(self, user: User, volume: Volume, **fields: Any) -> None:
        actions.volume_resize(volume, fields["size_bytes"], user)

    @button(
        "Delete",
        danger=True,
        when=lambda volume: _ready(volume) and volume.vm_id is None,
        asks="It is removed with its files, for good.",
        previews=_volume_removal,
    )
    def delete(self, user: User, volume: Volume) -> Operation:
        return actions.volume_delete(volume, user)


@admin.register(VolumeFile)
class VolumeFileAdmin(RoomAdmin):
    list_display = ("file_name", "volume", "format", "virtual_size", "backing", "backing_placement")
    list_select_related = ("volume", "backing", "backing_placement__template", "backing_placement__pool")
    name_lookup = "file_name"
    ids = ("id", "volume_id")
    facts = ("volume", "path", "format", "virtual_size", "backing", "backing_placement")

    @admin.display(description="size for the guest")
    def virtual_size(self, file: VolumeFile) -> SafeString:
        return cells.size(file.virtual_size_bytes)


@admin.register(Network)
class NetworkAdmin(RoomAdmin):
    list_display = ("name", "kind", "source", "zone")
    list_filter = ("kind", "zone")
    list_select_related = ("zone",)
    facts = ("kind", "source", "zone")

    def panels(self, row: Network) -> Iterable[Panel]:
        nics = row.nics.select_related("vm").order_by("vm__name", "pk")[:ROWS_SHOWN]
        yield Panel("Network cards", ("VM", "Address"), [(cells.link(nic.vm), cells.mono(nic.mac)) for nic in nics])

    @button("New network", takes=NetworkSerializer, on_list=True)
    def create(self, user: User, fields: dict[str, Any]) -> Network:
        return actions.network_create(**fields)


# --- what this room knows of others' rows ---------------------------------------------------------------------------


def _some(what: str) -> str:
    """No order of a million rows can be had in time, so only so many are shown, in any."""
    return f"{what}, {ROWS_SHOWN} at most"


def _vms_of_host(row: Host) -> Iterable[Panel]:
    yield Panel("VMs", _VM_COLUMNS, vm_rows(row.vms.order_by("name", "pk")), css="wide")


def _vms_of_template(row: Template) -> Iterable[Panel]:
    yield Panel(_some("VMs"), _VM_COLUMNS, vm_rows(row.vms.order_by()), "None was made from it yet.", css="wide")


def _volumes_of_pool(row: StoragePool) -> Iterable[Panel]:
    volumes = row.volumes.filter(state__in=(Volume.State.CREATING, Volume.State.READY)).order_by()
    yield Panel(_some("Volumes"), _VOLUME_COLUMNS, volume_rows(volumes), css="wide")


HostAdmin.add_panels(_vms_of_host)
TemplateAdmin.add_panels(_vms_of_template)
StoragePoolAdmin.add_panels(_volumes_of_pool)
