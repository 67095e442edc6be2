"""Messages that come three times, also after the end; a broker that is down when something is asked for."""

from tests.crash.echo import Echo
from tests.crash.jobs import JOBS, Download
from tests.crash.outcomes import Outcomes
from tests.crash.scene import Scene, Stopwatch
from tests.lab.waiting import poll


def arrivals(scene: Scene, command: str) -> int:
    """How often the agent has seen the message of a command."""
    log = (scene.lab.log_dir / f"{scene.host.part}.log").read_text().splitlines()
    return sum('"command.arrived"' in line and command in line for line in log)


def test_each_message_three_times_has_one_effect(scene: Scene, outcomes: Outcomes, job_name: str) -> None:
    job = JOBS[job_name](scene)
    job.set_up()
    with Echo(scene.lab.broker) as echo:
        since = Stopwatch()
        operation = job.ask()
        ended = scene.cloud.settled(operation, state=job.outcome)
        seconds = since.seconds
        (command,) = [row for row in scene.cloud.commands(ended) if row["kind"] == job.kind]
        poll(lambda: arrivals(scene, command["id"]) >= 3, 10, "the message arrives three times")
        assert echo.heard(f"agents.{job.kind}") == 1
        assert echo.heard("operations.reports") > 0
        scene.wait_quiet()
        before = arrivals(scene, command["id"])
        echo.once_more(3)
        poll(lambda: arrivals(scene, command["id"]) >= before + 3, 10, "it arrives three times after its end")
        scene.cloud.wait_pings(scene.host.name, 2)
    again = scene.cloud.client.get(f"operations/{operation['id']}/")
    assert again == ended
    assert [row["attempt"] for row in scene.cloud.commands(ended)] == [1] * len(ended["commands"])
    job.check(ended)
    scene.assert_whole(restarts=0)
    outcome = f"{ended['state']}, {scene.how(ended, job.kind)}, one effect"
    outcomes.add(job.name, "each message, three times", "during the work and after its end", outcome, seconds)


def test_what_is_asked_while_the_broker_is_down_is_done_once_it_is_back(scene: Scene, outcomes: Outcomes) -> None:
    job = Download(scene)
    job.set_up()
    scene.supervisor.stop("redis")
    try:
        operation = job.ask()
        (command,) = scene.cloud.commands(operation)
        assert operation["state"] == "pending"
        last_ping = scene.last_ping
    finally:
        scene.supervisor.release("redis")
    since = Stopwatch()
    scene.wait_heard(last_ping)
    ended = job.settled(operation)
    seconds = since.seconds
    assert [row["id"] for row in scene.cloud.commands(ended)] == [command["id"]]
    job.check(ended)
    scene.assert_whole(restarts=0)
    outcome = f"{ended['state']}, {scene.how(ended, job.kind)}"
    outcomes.add(job.name, "Redis, down", "when it was asked for", outcome, seconds)
