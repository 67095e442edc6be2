"""How views describe themselves in the OpenAPI document."""

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema


class ProblemAutoSchema(AutoSchema):
    """Adds the problem details that any call may answer with instead."""

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        from core_app.serializers import ProblemSerializer

        bodies = super()._get_response_bodies(direction)
        component = self.resolve_serializer(ProblemSerializer, direction)
        if component is not None:
            content = {"application/problem+json": {"schema": component.ref}}
            bodies["default"] = {"content": content, "description": "Problem details (RFC 9457)"}
        return bodies
