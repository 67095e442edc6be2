"""``volumes/``."""

from typing import ClassVar

from rest_framework import serializers

from compute_app.models import Volume
from core_app.viewsets import ReadViewSet


class VolumeSerializer(serializers.ModelSerializer[Volume]):
    path = serializers.CharField(source="top.path", read_only=True, allow_null=True)
    format = serializers.CharField(source="top.format", read_only=True, allow_null=True)
    chain_length = serializers.SerializerMethodField(help_text="Files of its own, without the template's copy")

    class Meta:
        model = Volume
        fields: ClassVar = [
            "id",
            "name",
            "account",
            "vm",
            "pool",
            "path",
            "size_bytes",
            "chain_length",
            "state",
            "format",
            "created_at",
        ]
        read_only_fields: ClassVar = fields

    def get_chain_length(self, volume: Volume) -> int:
        return len(volume.files.all())


class VolumeViewSet(ReadViewSet):
    queryset = Volume.objects.select_related("top__volume__pool").prefetch_related("files")
    serializer_class = VolumeSerializer
    filterset_fields: ClassVar = ["name", "state", "vm", "pool", "account"]
    ordering_fields = ("name",)
