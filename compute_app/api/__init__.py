"""The API of this room."""

from compute_app.api.vms import VMViewSet
from compute_app.api.volumes import VolumeViewSet

routes = [("vms", VMViewSet, "vm"), ("volumes", VolumeViewSet, "volume")]
