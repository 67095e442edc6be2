"""VMs, volumes and volume files in the admin: to look at; the API acts."""

from django.contrib import admin

from compute_app.models import VM, Volume, VolumeFile
from core_app.admin import ReadOnlyAdmin


@admin.register(VM)
class VMAdmin(ReadOnlyAdmin):
    list_display = ("name", "account", "state", "power_state", "guest_agent", "host", "cpus", "memory_bytes")
    list_filter = ("state", "power_state", "guest_agent", "zone")
    list_select_related = ("account", "host__agent")
    search_fields = ("name", "id")


@admin.register(Volume)
class VolumeAdmin(ReadOnlyAdmin):
    list_display = ("name", "account", "vm", "device", "pool", "size_bytes", "state")
    list_filter = ("state", "pool")
    list_select_related = ("account", "vm", "pool")
    search_fields = ("name", "id")


@admin.register(VolumeFile)
class VolumeFileAdmin(ReadOnlyAdmin):
    list_display = ("file_name", "volume", "format", "virtual_size_bytes", "backing", "backing_placement")
    list_select_related = ("volume", "backing", "backing_placement__template", "backing_placement__pool")
