"""Can this host reach a template's URL, and is it what it was declared to be?"""

from collections.abc import Mapping
from typing import Any

from agents.common.checksums import parse_checksum
from agents.common.image_header import inspect
from agents.downloads.base import Downloader
from agents.downloads.registry import DOWNLOADERS, downloader_for, request_for
from agents.handlers.base import Context
from agents.protocol.kinds import Data, TemplateCheck, TemplateCheckAnswer

MAX_VIRTUAL_SIZE_BYTES = 1 << 50


class TemplateCheckHandler:
    """Reads the first bytes of the body and nothing more; changes nothing anywhere."""

    def __init__(self, downloaders: Mapping[str, Downloader] = DOWNLOADERS) -> None:
        self._downloaders = downloaders

    def run(self, context: Context, payload: TemplateCheck) -> TemplateCheckAnswer:
        source = payload.source
        if source.checksum is not None:
            parse_checksum(source.checksum)
        request = request_for(source, payload.limits, context.secrets)
        found = downloader_for(request, self._downloaders).check(request, context.check)
        size = found.remote.size_bytes
        image = inspect(found.head, source.format, MAX_VIRTUAL_SIZE_BYTES, size)
        return TemplateCheckAnswer(
            size_bytes=size, virtual_size_bytes=image.virtual_size_bytes, resumable=found.resumable
        )

    def cancel(self, context: Context, payload: TemplateCheck) -> None:
        """There is nothing to put back."""

    def probe(self, notes: Mapping[str, Any], payload: TemplateCheck) -> Data:
        """There is nothing to find."""
        return Data()
