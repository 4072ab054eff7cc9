"""The README's table of flags, made from the scripts' parsers.

python -m scripts.flags            print it
python -m scripts.flags --write    put it into README.md
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import eval_fewshot
import eval_svm
import finetune_cls
import train_crosspoint
import train_partseg

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN = "<!-- made by `python -m scripts.flags --write` -->"
END = "<!-- end of the flags -->"
SCRIPTS = {  # what the table calls them
    "pre": train_crosspoint,
    "cls": finetune_cls,
    "seg": train_partseg,
    "svm": eval_svm,
    "few": eval_fewshot,
}
_DEFAULT = re.compile(r"\s*\(default: (.*)\)$")


def _flags(parser: argparse.ArgumentParser) -> Iterable[argparse.Action]:
    for action in parser._actions:
        if action.help != argparse.SUPPRESS and "--help" not in action.option_strings:
            yield action


def _default(action: argparse.Action) -> str:
    told = _DEFAULT.search(action.help or "")
    if told:
        return told[1]
    return "required" if action.required else "off" if action.nargs == 0 else "–"


def _joined(values: Mapping[str, str]) -> str:
    """One value where all scripts have it, else each with the scripts that do."""
    shared: dict[str, list[str]] = {}
    for script, value in values.items():
        shared.setdefault(value, []).append(script)
    if len(shared) == 1:
        return next(iter(shared))
    return "; ".join(f"{', '.join(who)}: {value}" for value, who in shared.items())


def _cell(text: str) -> str:
    return re.sub(r"([<>|*])", r"\\\1", text)


def table() -> str:
    """A row a flag, in the order of the parsers: name, default, meaning, scripts."""
    found: dict[str, dict[str, argparse.Action]] = {}
    for script, module in SCRIPTS.items():
        for action in _flags(module.get_args_parser()):
            found.setdefault(action.option_strings[0], {})[script] = action
    lines = ["| flag | default | meaning | scripts |", "|---|---|---|---|"]
    for name, actions in found.items():
        some = next(iter(actions.values()))
        written = name
        if isinstance(some, argparse.BooleanOptionalAction):
            written = "--[no-]" + name[2:]
        meanings, defaults = {}, {}
        for script, action in actions.items():
            defaults[script] = _default(action)
            meaning = _DEFAULT.sub("", action.help or "")
            if action.choices is not None and len(list(action.choices)) > 1:
                meaning = f"{{{', '.join(map(str, action.choices))}}} {meaning}"
            meanings[script] = meaning.strip() or "–"
        who = "all" if len(actions) == len(SCRIPTS) else ", ".join(actions)
        cells = (_cell(_joined(defaults)), _cell(_joined(meanings)), who)
        lines.append(f"| `{written}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_readme(text: str) -> str:
    """The README's text with the table as it is now between the two marks.

    Raises:
        ValueError: if a mark is missing.
    """
    parts = re.split(f"({re.escape(BEGIN)}|{re.escape(END)})", text)
    if parts[1::2] != [BEGIN, END]:
        raise ValueError(f"README.md: expected one {BEGIN} and one {END} behind it")
    return f"{parts[0]}{BEGIN}\n{table()}\n{END}{parts[4]}"


def get_args_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="change README.md")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Run the command line."""
    if not get_args_parser().parse_args(argv).write:
        print(table())
        return
    README.write_text(in_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
