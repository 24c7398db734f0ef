"""Completion scripts for shells: static text, made from the parser, that starts no Python."""

from __future__ import annotations

import argparse

from sitebus.cli.flags import actions

_BASH = """\
_{name}() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}}
    case $previous in
{cases}
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "{flags}" -- "$current"))
    else
        COMPREPLY=($(compgen -f -- "$current"))
    fi
}}
complete -o filenames -F _{name} {prog}
"""

_ZSH = """\
#compdef {prog}
_arguments -s \\
{lines}
  '*:target:_files'
"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Answer the script for ``bash``, ``zsh`` or ``fish``."""
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](parser)


def _is_optional(action: argparse.Action) -> bool:
    """Tell whether the value of a flag may be left out, and else stands behind an equals sign."""
    return str(action.metavar).startswith("[")


def _words(action: argparse.Action) -> str:
    return " ".join(action.choices or ())


def _bash(parser: argparse.ArgumentParser) -> str:
    flags = [flag for action in actions(parser) for flag in action.option_strings]
    cases = [
        f"        {'|'.join(action.option_strings)})\n"
        f'            COMPREPLY=($(compgen -W "{_words(action)}" -- "$current")); return;;'
        for action in actions(parser)
        if action.choices and not _is_optional(action)
    ]
    return _BASH.format(
        name=parser.prog.replace("-", "_"),
        prog=parser.prog,
        flags=" ".join(flags),
        cases="\n".join(cases),
    )


def _zsh(parser: argparse.ArgumentParser) -> str:
    lines = [_zsh_line(action) for action in actions(parser)]
    return _ZSH.format(prog=parser.prog, lines="\n".join(f"  {line} \\" for line in lines))


def _zsh_line(action: argparse.Action) -> str:
    help_text = (action.help or "").replace("'", "").translate({91: "(", 93: ")", 58: ","})
    value = ""
    if action.nargs != 0:
        value = f":value:({_words(action)})" if action.choices else ":value:_files"
    if _is_optional(action):
        return f"{action.option_strings[0]}=-'[{help_text}]:{value}'"
    flags = action.option_strings
    group = f"'({' '.join(flags)})'" if len(flags) > 1 else ""
    names = f"{{{','.join(flags)}}}" if len(flags) > 1 else flags[0]
    return f"{group}{names}'[{help_text}]{value}'"


def _fish(parser: argparse.ArgumentParser) -> str:
    return "\n".join(_fish_line(parser.prog, action) for action in actions(parser)) + "\n"


def _fish_line(prog: str, action: argparse.Action) -> str:
    flags = action.option_strings
    words = [f"complete -c {prog}"]
    words += [f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in flags]
    if action.choices:
        words.append(f"{'-fa' if _is_optional(action) else '-xa'} '{_words(action)}'")
    elif action.nargs != 0:
        words.append("-r")
    help_text = (action.help or "").replace("'", "")
    return " ".join([*words, f"-d '{help_text}'"])
