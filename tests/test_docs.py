"""The pages of docs/ say what is: their Python runs, their commands parse, their links lead somewhere.

Run as a script, it prints the flag tables of docs/command-line.md as the verbs have them.
"""

import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from seqdec.cli import options
from seqdec.cli.verbs import VERBS, split_verb

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "docs" / f"{name}.md"
    for name in (
        *("acting", "backbones", "codecs", "command-line", "data", "index", "layouts", "performance", "questions"),
        *("pretrained", "reliability", "text-worlds", "training"),
    )
]
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_every_page_of_the_list_is_there_and_no_other():
    assert set(PAGES) == set((ROOT / "docs").glob("*.md"))
    assert all(page.is_file() for page in LINKED)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in one language."""
    return [body for name, body in BLOCK.findall(page.read_text()) if name == language]


def commands(page: Path) -> list[list[str]]:
    """Return the words of each `seqdec ...` line of a page, the part after # left out."""
    lines = [line for body in blocks(page, "sh") for line in body.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("seqdec ")]


def anchors(page: Path) -> set[str]:
    """Return the names under which a page's headings can be linked to."""
    prose = BLOCK.sub("", page.read_text())
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def flag_table(verb: str) -> str:
    """Return the flags of a verb as a Markdown table, with the help that stands beside each option."""
    kind, _ = VERBS[verb]
    lines = ["| flag | default | what |", "|---|---|---|"]
    hints = get_type_hints(kind)
    for name, entry in options.options_of(kind).items():
        default, what = entry.default, entry.metadata["help"]
        if default is dataclasses.MISSING:
            lines.append(f"| `{name.upper()}` | | {what} |")
            continue
        if get_origin(hints[name]) is Literal:
            what += " " + ", ".join(f"`{choice}`" for choice in get_args(hints[name]))
        if isinstance(default, tuple):
            default = " ".join(default)
        shown = " off " if default is False else f" `{default}` " if default not in ("", None) else " "
        lines.append(f"| `{options.flag(name)}` |{shown}| {what} |")
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    if page.stem == "text-worlds":
        pytest.importorskip("textworld_express", reason='pip install "seqdec[text]"')
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block[1] == "python":
            before = "\n" * (text[: block.start(2)].count("\n"))  # so that a traceback shows the page's line
            exec(compile(before + block[2], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_the_commands_of_a_page_parse(page: Path):
    for words in commands(page):
        verb, rest = split_verb(words)
        options.parse(VERBS[verb][0], rest)


def test_every_verb_is_shown_in_a_command():
    shown = {split_verb(words)[0] for page in PAGES for words in commands(page)}
    assert shown == set(VERBS)


def test_every_flag_stands_in_its_table_as_flags_has_it():
    text = (ROOT / "docs" / "command-line.md").read_text() + "\n"
    for verb in VERBS:
        paste = f"{verb}: run python tests/test_docs.py and paste its table"
        assert f"\n\n{flag_table(verb)}\n\n" in text, paste
        assert text.count(f"## seqdec {verb}\n") == 1 and text.count("| `--debug` |") == len(VERBS), paste


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path):
    for target in LINK.findall(BLOCK.sub("", page.read_text())):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        linked = (page.parent / name).resolve() if name else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.name} links to {target}"


def test_every_page_is_in_the_table_of_contents():
    linked = set(LINK.findall((ROOT / "docs" / "index.md").read_text()))
    assert {page.name for page in PAGES} - {"index.md"} <= linked


def test_the_layouts_written_out_load_and_fit_the_sample():
    from seqdec import Layout, Windows, build_model, load_backbone
    from seqdec.play import scripted_cartpole

    dataset = scripted_cartpole(num_episodes=3)
    layouts = [json.loads(body) for page in PAGES for body in blocks(page, "json")]
    assert layouts
    for value in layouts:
        windows = Windows(dataset, Layout.from_json(value))
        model = build_model(windows, load_backbone("small"))
        losses = model(windows.draw(step=0, seed=0, batch_size=2).gather())
        assert all(loss > 0 for loss in losses.values())


def test_every_public_name_is_used_in_a_page():
    import seqdec

    words = {word for page in PAGES for word in re.findall(r"\w+", "\n".join(blocks(page, "python")))}
    words |= {word for page in PAGES for word in re.findall(r"\w+", "\n".join(blocks(page, "text")))}
    assert set(seqdec.__all__) <= words


if __name__ == "__main__":
    for verb in VERBS:
        print(f"## seqdec {verb}\n\n{flag_table(verb)}\n")
