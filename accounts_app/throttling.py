"""How many requests a token may make."""

import time
from threading import Lock
from typing import Any, ClassVar

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from accounts_app.models import Token
from core_app import settings_rows

WINDOW_SECONDS = 60
SETTING_IS_READ_EVERY_SECONDS = 5


class TokenThrottle(BaseThrottle):
    """So many requests a minute and token as the setting says, counted by each web process for itself.

    A shared counter would be a write for each read; what this guards against is one script that takes all of a server.
    """

    _lock: ClassVar = Lock()
    _window: ClassVar[int] = 0
    _counts: ClassVar[dict[Any, int]] = {}
    _limit: ClassVar[int] = 0
    _limit_read_at: ClassVar[float] = -SETTING_IS_READ_EVERY_SECONDS

    def allow_request(self, request: Request, view: Any) -> bool:
        if not isinstance(request.auth, Token):
            return True
        limit = self._limit_in_force()
        return self._count(request.auth.pk) <= limit or not limit

    def wait(self) -> float:
        """Seconds until the next window begins."""
        return WINDOW_SECONDS - time.monotonic() % WINDOW_SECONDS

    @classmethod
    def _count(cls, token: Any) -> int:
        window = int(time.monotonic() // WINDOW_SECONDS)
        with cls._lock:
            if window != cls._window:
                cls._window, cls._counts = window, {}
            cls._counts[token] = cls._counts.get(token, 0) + 1
            return cls._counts[token]

    @classmethod
    def _limit_in_force(cls) -> int:
        now = time.monotonic()
        if now - cls._limit_read_at >= SETTING_IS_READ_EVERY_SECONDS:
            cls._limit, cls._limit_read_at = settings_rows.get("api.requests.per.minute"), now
        return cls._limit
