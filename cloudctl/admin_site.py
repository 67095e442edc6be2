"""The admin's site: who may enter, and what all its pages carry."""

from collections.abc import Callable
from typing import Any

from django.apps import apps
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import URLPattern, path, reverse
from django.utils.cache import patch_vary_headers, set_response_etag
from django.utils.http import url_has_allowed_host_and_scheme
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from accounts_app.models import User
from core_app.console.forms import suggestions

THEMES = ("auto", "light", "dark")
YEAR_SECONDS = 365 * 86_400
LIVE = "X-Live"
"""A request with this header wants only the block ``live`` of a page, and only if it has changed (ETag)."""


class EntryForm(AuthenticationForm):  # type: ignore[misc]  # untyped
    """Lets those in who see the whole fleet."""

    def confirm_login_allowed(self, user: Any) -> None:
        if not user.sees_everything:
            raise ValidationError(
                "You may not use the admin: it is for those who run the fleet. Use the API or the command line, or ask"
                " an admin for another role."
            )


class CloudctlAdminSite(UnfoldAdminSite):  # type: ignore[misc]  # untyped
    """unfold's site with our own layout, which needs no script."""

    login_form = EntryForm
    index_template = "cloudctl/front_page.html"
    enable_nav_sidebar = True

    def has_permission(self, request: HttpRequest) -> bool:
        """Roles decide: admins, operators and those who only read. Who sees but an account's objects has the API."""
        user = request.user
        return isinstance(user, User) and user.is_active and user.sees_everything

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        theme = request.COOKIES.get("theme", "auto")
        return {
            **super().each_context(request),
            "base_template": "cloudctl/live.html" if LIVE in request.headers else "admin/base_site.html",
            "theme": theme if theme in THEMES else "auto",
            "themes": THEMES,
        }

    def admin_view(self, view: Callable[..., HttpResponse], cacheable: bool = False) -> Callable[..., HttpResponse]:
        def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            response = view(request, *args, **kwargs)
            if LIVE in request.headers and hasattr(response, "add_post_render_callback"):
                response.add_post_render_callback(_tagged)
            return response

        outer: Callable[..., HttpResponse] = super().admin_view(inner, cacheable)
        return outer

    def get_urls(self) -> list[URLPattern]:
        own = [
            path("theme/", self.set_theme, name="theme"),
            path("names/<str:app_label>/<str:model_name>/", self.admin_view(self.names), name="names"),
        ]
        return [*own, *super().get_urls()]

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        from cloudctl import front_page  # it needs the rooms' pages, and they need this site

        response: HttpResponse = super().index(request, front_page.context())
        return response

    def names(self, request: HttpRequest, app_label: str, model_name: str) -> JsonResponse:
        """Names that begin with ``q``, for a form's suggestions."""
        try:
            model = apps.get_model(app_label, model_name)
        except LookupError:
            raise Http404
        if model not in self._registry:
            raise Http404
        return JsonResponse({"names": suggestions(model._default_manager.all(), request.GET.get("q", ""))})

    def set_theme(self, request: HttpRequest) -> HttpResponse:
        """Light, dark, or as the browser has it; kept in a cookie."""
        back = request.POST.get("next", "")
        allowed = url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure())
        response = HttpResponseRedirect(back if allowed else reverse("admin:index"))
        if request.method == "POST" and request.POST.get("theme") in THEMES:
            response.set_cookie("theme", request.POST["theme"], max_age=YEAR_SECONDS, samesite="Lax", httponly=True)
        return response


def _tagged(response: HttpResponse) -> None:
    patch_vary_headers(response, [LIVE])
    set_response_etag(response)
