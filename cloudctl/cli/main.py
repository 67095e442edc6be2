"""``cloudctl``: the program."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from agents.common.version import own_version
from cloudctl.cli.commands import group_of, watch
from cloudctl.cli.doctor import doctor
from cloudctl.cli.errors import CliError, ExitCode
from cloudctl.cli.output import print_error, say
from cloudctl.cli.resources import RESOURCES
from cloudctl.cli.session import Session

COMPLETE = "_CLOUDCTL_COMPLETE"
SHELLS = ("bash", "zsh", "fish")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(own_version(), prog_name="cloudctl")
@click.option("--url", metavar="URL", help="The server's address. [CLOUDCTL_URL]")
@click.option("--token-file", metavar="FILE", help="A file with the token in it. [CLOUDCTL_TOKEN: the token itself]")
@click.option(
    "--config", type=click.Path(path_type=Path), metavar="FILE", help="Default: ~/.config/cloudctl/config.toml"
)
@click.pass_context
def cli(ctx: click.Context, url: str | None, token_file: str | None, config: Path | None) -> None:
    """Drive a fleet of KVM hosts.

    Objects are given by id, or by a name that only one has. Exit codes: 0 succeeded, 1 failed or refused, 2 usage,
    3 needs attention, 4 cancelled, 5 no answer from the server, 6 --timeout is over, 130 interrupted.
    """
    ctx.obj = Session(url, token_file, config)


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete cloudctl's words and names: eval "$(cloudctl completion bash)"."""
    if found := get_completion_class(shell):
        click.echo(found(cli, {}, "cloudctl", COMPLETE).source())


for resource in RESOURCES:
    cli.add_command(group_of(resource))
cli.commands["operations"].add_command(watch)  # type: ignore[attr-defined]
cli.add_command(doctor)
cli.add_command(completion)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    try:
        code = cli.main(arguments, prog_name="cloudctl", complete_var=COMPLETE, standalone_mode=False)
    except CliError as error:
        print_error(error)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except click.Abort:
        say("Interrupted. What was sent may have been done; `cloudctl operations list` shows it.")
        return ExitCode.INTERRUPTED
    return code or ExitCode.SUCCEEDED


if __name__ == "__main__":
    sys.exit(main())
