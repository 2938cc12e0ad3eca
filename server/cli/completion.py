"""`coffer completion`: the script that lets a shell complete commands and options."""

import click
from click.shell_completion import get_completion_class

from coffer.server.cli import output

_SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
Examples:
  coffer completion bash > /etc/bash_completion.d/coffer
  coffer completion zsh > ~/.zfunc/_coffer
  coffer completion fish > ~/.config/fish/completions/coffer.fish"""
)
@click.argument("shell", type=click.Choice(_SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    kind = get_completion_class(shell)
    assert kind is not None
    output.say(kind(ctx.find_root().command, {}, "coffer", "_COFFER_COMPLETE").source())
