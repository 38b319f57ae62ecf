"""`tfdatafree completion`: prints a script that lets a shell complete commands, flags and their choices."""

from collections.abc import Callable, Collection, Mapping

from absl import flags

from tfdatafree.cli.command import NAME, Command, Flags
from tfdatafree.recipe.check import require_name
from tfdatafree.recipe.prune import PRUNE_METHODS
from tfdatafree.recipe.recipe import PRESETS
from tfdatafree.targets.registry import TARGETS

# Values that a flag may have. A flag that is not here takes a file, a number or nothing.
_CHOICES: dict[str, Collection[str]] = {
    "recipe": PRESETS,
    "target": TARGETS,
    "prune": PRUNE_METHODS,
    "pattern": ("2:4", "4:8", "4x1"),
}

_BASH = """# Put this into ~/.bashrc: eval "$({name} completion bash)"
_{name}() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} flag= choices=
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{commands}" -- "$word"))
    return
  fi
  # bash splits --flag=value into three words
  if [ "$word" = "=" ]; then flag=$before; word=
  elif [ "$before" = "=" ]; then flag=${{COMP_WORDS[COMP_CWORD-2]}}; fi
  case $flag in
{choices}
  esac
  if [ -n "$choices" ]; then
    COMPREPLY=($(compgen -W "$choices" -- "$word"))
    return
  fi
  case $word in
    -*)
      compopt -o nospace 2>/dev/null  # an older bash has it not
      case ${{COMP_WORDS[1]}} in
{flags}
      esac
      COMPREPLY=($(compgen -W "$choices" -- "$word")) ;;
    *) COMPREPLY=($(compgen -f -- "$word")) ;;
  esac
}}
complete -o filenames -F _{name} {name}"""

_ZSH = """# Put this into ~/.zshrc, after compinit: eval "$({name} completion zsh)"
autoload -U +X bashcompinit && bashcompinit
{bash}"""

_FISH = """# Put this into ~/.config/fish/config.fish: {name} completion fish | source
complete -c {name} -n __fish_use_subcommand -f -a "{commands}"
{lines}"""


def completion(commands: Mapping[str, Command]) -> Command:
    """The command that completes `commands`, which may be added to later."""

    def run(values: flags.FlagValues, shell: str) -> None:
        require_name("shell", shell, _SCRIPTS)
        print(_SCRIPTS[shell](_flags(commands)))

    return Command(
        ("SHELL",),
        "",
        "Prints a script that lets a shell complete commands, flags and their choices.",
        f"SHELL is {', '.join(_SCRIPTS)}. The first line of the script says where to put it.",
        f"{NAME} completion bash",
        lambda options: None,
        run,
    )


def _flags(commands: Mapping[str, Command]) -> dict[str, list[str]]:
    """Command -> its flags as they are typed, such as --seed= and --quiet."""
    found = {}
    for name, command in commands.items():
        options = Flags()
        command.define(options)
        words = [left.split(", ")[-1] for left, _ in options.lines]
        found[name] = [word.partition("=")[0] + ("=" if "=" in word else "") for word in words] + [
            "--help",
            "--verbose",
        ]
    return found


def _bash(known: Mapping[str, list[str]]) -> str:
    return _BASH.format(
        name=NAME,
        commands=" ".join(known),
        choices="\n".join(f'    --{flag}) choices="{" ".join(choices)}" ;;' for flag, choices in _CHOICES.items()),
        flags="\n".join(f'        {name}) choices="{" ".join(words)}" ;;' for name, words in known.items()),
    )


def _zsh(known: Mapping[str, list[str]]) -> str:
    return _ZSH.format(name=NAME, bash=_bash(known).partition("\n")[2])


def _fish(known: Mapping[str, list[str]]) -> str:
    lines = []
    for name, words in known.items():
        for word in words:
            flag = word.strip("-=")
            takes = "" if "=" not in word else f" -x -a '{' '.join(_CHOICES[flag])}'" if flag in _CHOICES else " -r"
            lines.append(f"complete -c {NAME} -n '__fish_seen_subcommand_from {name}' -l {flag}{takes}")
    return _FISH.format(name=NAME, commands=" ".join(known), lines="\n".join(lines))


_SCRIPTS: dict[str, Callable[[Mapping[str, list[str]]], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
