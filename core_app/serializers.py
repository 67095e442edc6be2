"""Serializers that all rooms share."""

from collections.abc import Mapping
from typing import Any, ClassVar

from drf_spectacular.extensions import OpenApiSerializerExtension
from drf_spectacular.utils import extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from core_app.models import Event
from core_app.references import Reference
from core_app.schema import request_example


class StrictSerializer(serializers.Serializer[Any]):
    """For what people send: a field that is not known is refused, since a typo must not be taken for a wish."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = set(data) - set(self.fields) if isinstance(data, Mapping) else ()
        if unknown:
            raise serializers.ValidationError(
                {str(name)[:100]: [f"It is not known here; known: {', '.join(self.fields)}."] for name in unknown}
            )
        return super().to_internal_value(data)


class StrictScheme(OpenApiSerializerExtension):  # type: ignore[no-untyped-call]  # registers itself
    """How the OpenAPI document says that nothing else is taken."""

    target_class = StrictSerializer
    match_subclasses = True

    def map_serializer(self, auto_schema: Any, direction: Any) -> Any:
        schema = auto_schema._map_serializer(self.target, direction, bypass_extensions=True)
        return {**schema, "additionalProperties": False}


class ReferenceSerializer(serializers.Serializer[Any]):
    """``{type, id, name}``, where the type can vary."""

    type = serializers.CharField(read_only=True)
    id = serializers.CharField(read_only=True)
    name = serializers.CharField(read_only=True)


class ProblemSerializer(serializers.Serializer[Any]):
    """An RFC 9457 problem, as ``core_app.problems`` makes it."""

    type = serializers.CharField(help_text="URI reference, /problems/<code>; the code is stable")
    title = serializers.CharField()
    status = serializers.IntegerField()
    detail = serializers.CharField(help_text="Cause, consequence and remedy in one text")
    cause = serializers.CharField()
    consequence = serializers.CharField()
    remedy = serializers.CharField()
    errors = serializers.DictField(  # type: ignore[assignment]  # a member of the RFC, not the serializer's own errors
        child=serializers.ListField(child=serializers.CharField()), required=False, help_text="Messages by field"
    )
    operation = serializers.UUIDField(required=False, help_text="The operation that is in the way")


class EventSerializer(serializers.ModelSerializer[Event]):
    account = serializers.UUIDField(source="account_id", read_only=True, allow_null=True)
    target = serializers.SerializerMethodField(help_text="What it happened to; null for the whole system")

    class Meta:
        model = Event
        fields: ClassVar = ["id", "kind", "level", "account", "target", "message", "details", "created_at"]

    @extend_schema_field(ReferenceSerializer(allow_null=True))
    def get_target(self, event: Event) -> Reference | None:
        if not event.target_type:
            return None
        return {"type": event.target_type, "id": event.target_id, "name": event.target_name}


@extend_schema_serializer(examples=[request_example({"value": 30})])
class SettingSerializer(serializers.Serializer[Any]):
    """A setting with what it may be."""

    name = serializers.CharField(read_only=True)
    value = serializers.JSONField(help_text="Of the kind of the default, within the bounds")
    default = serializers.JSONField(read_only=True)
    unit = serializers.CharField(read_only=True)
    bounds = serializers.ListField(
        child=serializers.JSONField(), read_only=True, help_text="Smallest and largest, or the choices"
    )
    help = serializers.CharField(read_only=True)
