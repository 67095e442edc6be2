"""``networks/``."""

from typing import Any, ClassVar

from drf_spectacular.utils import extend_schema_serializer
from rest_framework import mixins, serializers

from compute_app import actions
from compute_app.models import Network
from core_app.schema import AN_ID, request_example
from core_app.viewsets import ReadViewSet


@extend_schema_serializer(examples=[request_example({"name": "lan", "zone": AN_ID, "kind": "bridge", "source": "br0"})])
class NetworkSerializer(serializers.ModelSerializer[Network]):
    class Meta:
        model = Network
        fields: ClassVar = ["id", "name", "zone", "kind", "source", "created_at"]
        # The action says it better.
        validators: ClassVar[list[Any]] = []


class NetworkViewSet(mixins.CreateModelMixin, mixins.DestroyModelMixin, ReadViewSet):
    queryset = Network.objects.all()
    serializer_class = NetworkSerializer
    filterset_fields: ClassVar = ["name", "zone", "kind"]
    ordering_fields = ("name",)

    def perform_create(self, serializer: serializers.BaseSerializer[Any]) -> None:
        serializer.instance = actions.network_create(**serializer.validated_data)

    def perform_destroy(self, instance: Network) -> None:
        actions.network_delete(instance)
