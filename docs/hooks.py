"""What MkDocs needs besides: pages made of files that lie elsewhere, and links that lead to them.

The README is the home page; each notebook, with its outputs, and each example is a page. A link that leads
to a file of the repository leads to its page here, or, where it has none, becomes its text. On the pages of
the API `::: gradx.optimizers.adam` stands for what that module defines of its `__all__`, by the public names.
"""

import ast
import json
import pathlib
import posixpath
import re

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
# Where the names of a module are public, by the beginning of its own; the others as `gradx.<name>`.
PUBLIC = {
    "gradx.keras": "gradx.keras",
    "gradx.optax": "gradx.optax",
    "gradx.torch": "gradx.torch",
    "gradx.flax": "gradx.flax",
    "gradx.plot": "gradx.plot",
}
ENTRY = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)
LINK = re.compile(
    r"^ *(`{3,}).*?^ *\1|`[^`\n]*`|\[((?:`[^`]*`|[^]`])*)\]\(([^)\s]+)\)", re.DOTALL | re.MULTILINE
)


def page_of(path):
    """The page of a file of the repository; None if it has none."""
    if re.fullmatch(r"(notebooks|examples)/\w+\.(py|ipynb)", path):
        return posixpath.splitext(path)[0] + ".md"
    return path[len("docs/") :] if path.startswith("docs/") else PAGES.get(path)


def relinked(text, source):
    """Markdown whose links, relative to the file `source`, are relative to its page."""

    def link(match):
        label, target = match[2], match[3]
        if target is None or re.match(r"#|\w+:", target):  # code, or nothing to do
            return match[0]
        path, *anchor = target.split("#")
        to = page_of(posixpath.normpath(posixpath.join(posixpath.dirname(source), path)))
        if to is None:
            return label
        return f"[{label}]({'#'.join([posixpath.relpath(to, posixpath.dirname(page_of(source))), *anchor])})"

    return LINK.sub(link, text)


def example(name, text):
    """A script, introduced by its docstring, whose commands stand alone on their lines."""
    head = ast.parse(text).body[0]
    words = re.sub("^(?=python )", "    ", ast.literal_eval(head.value), flags=re.MULTILINE)
    code = "\n".join(text.splitlines()[head.end_lineno :]).strip()
    return f"# {name}\n\n{words}\n\n````python\n{code}\n````\n"


def notebook(text):
    """A notebook with what its cells showed."""
    cells = json.loads(text)["cells"]
    return "\n\n".join(part for cell in cells for part in [shown(cell), *map(shown, cell.get("outputs", []))])


def shown(part):
    """A cell, or what one showed: a picture, HTML or text."""
    kind, data = part.get("cell_type"), part.get("data", {})
    if kind:
        source = "".join(part["source"])
        return source if kind == "markdown" else f"````python\n{source}\n````"
    if "image/png" in data:
        return f'<img class="output" alt="" src="data:image/png;base64,{data["image/png"].strip()}">'
    if "text/html" in data:
        return f'<div class="output">{"".join(data["text/html"])}</div>'
    plain = "".join(data.get("text/plain") or part["text"]).rstrip()
    return f"```` {{ .text .output .no-copy }}\n{plain}\n````"


def names(module):
    """The public names that a module defines, functions first."""
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets) == "__all__"]
    written = [node for node in lists if isinstance(node, ast.List)]  # else it is another library's list
    listed = [name for node in written for name in ast.literal_eval(node) if name in defined]
    place = next((PUBLIC[start] for start in PUBLIC if module.startswith(start)), "gradx")
    return [f"{place}.{name}" for name in sorted(listed, key=lambda name: name[0].isupper())]


def documented(module):
    """Directives for what a module defines, with public names as headings."""
    options = "    options: {{ heading: {0}, toc_label: {1} }}"
    return "\n\n".join(f"::: {name}\n{options.format(name, name.split('.')[-1])}" for name in names(module))


def referred(text, modules):
    """Markdown whose names in tables, as `adamw`, lead to the API, if one of the modules defines them."""
    found = {name for module in modules for name in names(module)}
    link = lambda m: f"[{m[0]}][gradx.{m[1]}]" if f"gradx.{m[1]}" in found else m[0]
    row = lambda line: re.sub(r"(?<![\[`])`([\w.]+)`(?!\])", link, line[0])
    return re.sub(r"^\|.*$", row, text, flags=re.MULTILINE)


def on_files(files, config):
    from mkdocs.structure.files import File

    makers = {
        ".md": relinked,
        ".py": lambda text, source: example(posixpath.basename(source), text),
        ".ipynb": lambda text, source: relinked(notebook(text), source),
    }
    for path in [*PAGES, *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("examples/*.py")]:
        source = (ROOT / path).relative_to(ROOT).as_posix()
        content = makers[posixpath.splitext(source)[1]]((ROOT / path).read_text(), source)
        files.append(File.generated(config, page_of(source), content=content))
    return files


def on_page_markdown(markdown, page, config, files):
    if not page.file.generated_by:
        entries = ENTRY.sub(lambda match: documented(match[1]), markdown)
        markdown = relinked(entries, f"docs/{page.file.src_uri}")
    if page.file.src_uri in ("index.md", "overview.md"):
        api = "".join(path.read_text() for path in (ROOT / "docs/api").glob("*.md"))
        markdown = referred(markdown, ENTRY.findall(api))
    return markdown
