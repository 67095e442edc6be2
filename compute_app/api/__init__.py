"""The API of this room."""

from compute_app.api.networks import NetworkViewSet
from compute_app.api.vms import VMViewSet
from compute_app.api.volumes import VolumeViewSet

routes = [("networks", NetworkViewSet, "network"), ("vms", VMViewSet, "vm"), ("volumes", VolumeViewSet, "volume")]
