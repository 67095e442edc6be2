"""The agent is killed with -9 at every crash point, and the work is done all the same."""

import pytest

from agents.common.crash_points import CRASH_POINTS
from tests.crash.cases import kills
from tests.crash.jobs import JOBS
from tests.crash.outcomes import Outcomes
from tests.crash.scene import Scene, Stopwatch


def test_every_registered_point_has_a_case() -> None:
    for depth in ("short", "full"):
        assert {point for _, point in kills(depth)} == CRASH_POINTS.keys()


def test_the_agent_is_killed(scene: Scene, outcomes: Outcomes, job_name: str, point: str) -> None:
    job = JOBS[job_name](scene)
    job.set_up()
    scene.points.arm(point, "kill")
    operation = job.ask()
    scene.points.wait_killed(point)
    since = Stopwatch()
    outcomes.killed_at.add(point)
    scene.wait_back()
    ended = job.settled(operation)
    seconds = since.seconds
    job.check(ended)
    scene.assert_whole(restarts=1)
    outcomes.add(job.name, "the agent, SIGKILL", point, f"{ended['state']}, {scene.how(ended, job.kind)}", seconds)


def test_every_point_whose_case_ran_was_killed_at(request: pytest.FixtureRequest, outcomes: Outcomes) -> None:
    ran = {
        item.callspec.params["point"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.originalname == "test_the_agent_is_killed"
    }
    assert outcomes.killed_at == ran
