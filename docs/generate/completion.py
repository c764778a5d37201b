"""Print a completion script for bash: module names, options, and the values of options that have a fixed set."""

from __future__ import annotations

import shlex

from command_options import Option, command_help, find_commands

SCRIPT = """\
# Made by `make completion`: options of this project's commands in bash, and in zsh with bashcompinit.
_hw3p2() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  COMPREPLY=()
  [ "${{COMP_WORDS[1]}}" = -m ] || return 0
  if [ "$COMP_CWORD" -eq 2 ]; then
    words="{modules}"
  else
    case "${{COMP_WORDS[2]}} $before" in
{values}
    esac
    if [ -z "$words" ] && [ "${{word#-}}" != "$word" ]; then
      case "${{COMP_WORDS[2]}}" in
{options}
      esac
    fi
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _hw3p2 python python3 .venv/bin/python
"""


def choices(option: Option) -> list[str]:
    """The values of an option that has a fixed set, such as {wall,cpu}."""
    values = option.values
    return values[1:-1].split(",") if values.startswith("{") and values.endswith("}") else []


def completion_script() -> str:
    """The script, from the commands' own parsers."""
    names, values = [], []
    for module in find_commands():
        options = command_help(module).options
        flags = " ".join(name for option in options for name in option.names)
        names.append(f"        {module}) words={shlex.quote(flags + ' --help')} ;;")
        for option in options:
            if choices(option):
                cases = " | ".join(f"'{module} {name}'" for name in option.names)
                values.append(f"      {cases}) words={shlex.quote(' '.join(choices(option)))} ;;")
    return SCRIPT.format(modules=" ".join(find_commands()), options="\n".join(names), values="\n".join(values))


if __name__ == "__main__":
    print(completion_script(), end="")
