"""Answers probes: what is true about a command of which nothing runs any more."""

import logging
import threading
from collections.abc import Mapping
from queue import SimpleQueue
from typing import Any, Literal

from agents.common.children import ORPHAN_SECONDS, end_orphans
from agents.common.errors import CannotTell, CommandError
from agents.executor import Tools
from agents.heartbeat import Reporter
from agents.journal import Journal
from agents.lanes import Lanes
from agents.protocol.messages import Evidence, Probe

log = logging.getLogger(__name__)

PROBES_AT_ONCE = 8
Status = Literal["running", "settled", "cannot_tell"]


class Prober:
    """Probes have threads of their own, so they are never behind work."""

    def __init__(self, journal: Journal, lanes: Lanes, tools: Tools, reporter: Reporter) -> None:
        self._journal = journal
        self._lanes = lanes
        self._tools = tools
        self._reporter = reporter
        self._questions: SimpleQueue[Probe] = SimpleQueue()
        self._threads = [
            # Daemons: a probe that waits for a dead file server must not keep the agent from ending.
            threading.Thread(target=self._work, name=f"probe-{number}", daemon=True)
            for number in range(PROBES_AT_ONCE)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def ask(self, question: Probe) -> None:
        """Look, and answer. The command stands still until then (see :meth:`Lanes.stand_still`)."""
        self._questions.put(question)

    def _work(self) -> None:
        while True:
            question = self._questions.get()
            try:
                status, evidence, reason = self._look(question)
            finally:
                self._lanes.go_on(question.command_id)
            self.answer(question, status, evidence, reason)

    def _look(self, question: Probe) -> tuple[Status, dict[str, Any] | None, str]:
        record = self._journal.record(question.command_id)
        notes: Mapping[str, Any] = record.notes if record else {}
        try:
            end_orphans(question.command_id, ORPHAN_SECONDS)
            handler, payload = self._tools.find(question.kind, question.payload)
            return "settled", handler.probe(notes, payload).model_dump(mode="json"), ""
        except CannotTell as reason:
            return "cannot_tell", None, str(reason)
        except CommandError as error:
            return "cannot_tell", None, f"{error.problem.cause} {error.problem.remedy}"
        except Exception:
            log.exception("probe.internal_error", extra={"command_id": question.command_id})
            return "cannot_tell", None, "The agent met an error that it does not know; its log has the details."

    def answer(self, question: Probe, status: Status, evidence: dict[str, Any] | None = None, reason: str = "") -> None:
        """Send the answer, with what the journal says now."""
        log.info("probe.answered", extra={"command_id": question.command_id, "status": status, "reason": reason})
        self._reporter.answer(
            Evidence(
                agent_id=self._reporter.agent_id,
                epoch=self._reporter.epoch,
                probe_id=question.probe_id,
                command_id=question.command_id,
                attempt=question.attempt,
                status=status,
                reason=reason,
                entry=self._journal.entry(question.command_id),
                evidence=evidence,
            )
        )
