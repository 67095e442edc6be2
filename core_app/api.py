"""``events/`` and ``settings/``."""

from typing import Any, ClassVar

import django_filters
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from core_app import settings_rows
from core_app.filters import FieldFilterSet
from core_app.models import Event
from core_app.serializers import EventSerializer, SettingSerializer
from core_app.viewsets import ReadViewSet, RoomViewSet


class EventFilterSet(FieldFilterSet):
    account = django_filters.UUIDFilter(field_name="account_id")
    target = django_filters.UUIDFilter(field_name="target_id", help_text="Id of the object that it happened to")

    class Meta(FieldFilterSet.Meta):
        model = Event
        fields: ClassVar = ["kind", "level"]


class EventViewSet(ReadViewSet):
    """What happened, newest first."""

    queryset = Event.objects.all()
    serializer_class = EventSerializer
    filterset_class = EventFilterSet


class SettingViewSet(RoomViewSet):
    """What operators may set, with unit, default and bounds."""

    serializer_class = SettingSerializer
    operators_only = True
    pagination_class = None
    filter_backends = ()
    lookup_field = "name"
    lookup_value_regex = r"[a-z0-9_.]+"

    @extend_schema(responses=SettingSerializer(many=True))
    def list(self, _request: Request) -> Response:
        values = settings_rows.values()
        return Response([_described(definition, values[definition.name]) for definition in settings_rows.definitions()])

    def retrieve(self, _request: Request, name: str) -> Response:
        return Response(_described(settings_rows.definition_of(name), settings_rows.get(name)))

    def update(self, request: Request, name: str) -> Response:
        definition = settings_rows.definition_of(name)
        given = SettingSerializer(data=request.data)
        given.is_valid(raise_exception=True)
        return Response(_described(definition, settings_rows.put(name, given.validated_data["value"])))


def _described(definition: settings_rows.Definition, value: Any) -> dict[str, Any]:
    return {
        "name": definition.name,
        "value": value,
        "default": definition.default,
        "unit": definition.unit,
        "bounds": list(definition.bounds),
        "help": definition.help,
    }


routes = [("events", EventViewSet, "event"), ("settings", SettingViewSet, "setting")]
