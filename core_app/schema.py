"""How views describe themselves in the OpenAPI document."""

from typing import Any, Literal

from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiParameter

from core_app.idempotency import HEADER, KEY_LENGTH

_IDEMPOTENCY_KEY = OpenApiParameter(
    HEADER,
    {"type": "string", "minLength": 1, "maxLength": KEY_LENGTH},
    OpenApiParameter.HEADER,
    description="A repeat with the same key gets the first answer, for 24 hours",
)

AN_ID = "6f1d3c1e-6f0e-4d7a-9d57-0a3f6b1c2d4e"
"""In examples: the id of something that there is."""


def request_example(body: dict[str, Any]) -> OpenApiExample:
    """A body that works; a test sends each, with the ids of its own objects."""
    return OpenApiExample("A request", value=body, request_only=True)


class ProblemAutoSchema(AutoSchema):
    """Adds the problem details that any call may answer with instead, and the header that any POST takes."""

    def get_override_parameters(self) -> Any:
        parameters = super().get_override_parameters()
        return [*parameters, _IDEMPOTENCY_KEY] if self.method == "POST" and self.get_auth() != [{}] else parameters

    def _get_response_bodies(self, direction: Literal["request", "response"] = "response") -> Any:
        from core_app.serializers import ProblemSerializer

        bodies = super()._get_response_bodies(direction)
        component = self.resolve_serializer(ProblemSerializer, direction)
        if component is not None:
            content = {"application/problem+json": {"schema": component.ref}}
            bodies["default"] = {"content": content, "description": "Problem details (RFC 9457)"}
        return bodies
