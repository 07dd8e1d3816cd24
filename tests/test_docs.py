"""The pages of docs/ say what is: their Python runs, their commands parse, their links lead somewhere.

Run as a script, it prints the flag tables of docs/command-line.md as options.py has them.
"""

import ast
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from seqdec.cli import options

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
LINKED = [*PAGES, *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "CONTRIBUTING.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


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
    """Return the flags of a verb as a Markdown table, with the lines of help that options.py has below each."""
    kind = options.VERBS[verb]
    source = ast.parse((ROOT / "seqdec" / "cli" / "options.py").read_text())
    body = next(node for node in source.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__).body
    helps = {
        field.target.id: text.value.value
        for field, text in zip(body, body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    lines = ["| flag | default | what |", "|---|---|---|"]
    hints = get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING:
            lines.append(f"| `{field.name.upper()}` | | {helps[field.name]} |")
            continue
        name, default, what = options.flag(field.name), field.default, " ".join(str(helps[field.name]).split())
        if get_origin(hints[field.name]) is Literal:
            what += " " + ", ".join(f"`{choice}`" for choice in get_args(hints[field.name]))
        if get_origin(hints[field.name]) is tuple:
            default = " ".join(default)
        shown = " off " if default is False else f" `{default}` " if default not in ("", None) else " "
        lines.append(f"| `{name}` |{shown}| {what} |")
    return "\n".join(lines)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    text = page.read_text()
    for block in BLOCK.finditer(text):
        if block[1] == "python":
            before = "\n" * (text[: block.start(2)].count("\n"))  # so that a traceback shows the page's line
            exec(compile(before + block[2], str(page), "exec"), namespace)


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_the_commands_of_a_page_parse(page: Path):
    for words in commands(page) if page.exists() else []:
        verb, rest = options.split_verb(words)
        options.parse(options.VERBS[verb], rest)


def test_every_verb_is_shown_in_a_command():
    shown = {options.split_verb(words)[0] for page in PAGES for words in commands(page)}
    assert shown == set(options.VERBS)


def test_every_flag_stands_in_its_table_as_flags_has_it():
    text = (ROOT / "docs" / "command-line.md").read_text() + "\n"
    for verb in options.VERBS:
        paste = f"{verb}: run python tests/test_docs.py and paste its table"
        assert f"\n\n{flag_table(verb)}\n\n" in text, paste
        assert text.count(f"## seqdec {verb}\n") == 1 and text.count("| `--debug` |") == len(options.VERBS), paste


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.stem)
def test_relative_links_lead_somewhere(page: Path):
    for target in LINK.findall(BLOCK.sub("", page.read_text()) if page.exists() else ""):
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
    from seqdec import Layout, Windows, build_model, load_backbone, scripted_cartpole

    dataset = scripted_cartpole(num_episodes=3)
    layouts = [json.loads(body) for page in PAGES for body in blocks(page, "json")]
    assert layouts
    for value in layouts:
        windows = Windows(dataset, Layout.from_json(value))
        model = build_model(windows, load_backbone("small"))
        losses = model(windows.gather(windows.draw(step=0, seed=0, batch_size=2)))
        assert all(loss > 0 for loss in losses.values())


def test_every_public_name_is_used_in_a_page():
    import seqdec

    words = {word for page in PAGES for word in re.findall(r"\w+", "\n".join(blocks(page, "python")))}
    words |= {word for page in PAGES for word in re.findall(r"\w+", "\n".join(blocks(page, "text")))}
    assert set(seqdec.__all__) <= words


if __name__ == "__main__":
    for verb in options.VERBS:
        print(f"## seqdec {verb}\n\n{flag_table(verb)}\n")
