"""How Sphinx builds this documentation: `nox -s docs`, which needs no network."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from importlib.metadata import version as version_of
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import anyconnpool
import anyconnpool.testing
from anyconnpool._settings import Settings

project = "anyconnpool"
author = "the anyconnpool developers"
copyright = author
release = version = version_of(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
suppress_warnings = ["config.cache"]
nitpicky = True
nitpick_ignore_regex = [
    # Of these, names appear in signatures alone.
    ("py:.*", r"(opentelemetry|prometheus_client)\..*"),
    ("py:class", "TaskStatus"),
    # Type variables.
    ("py:obj", r"anyconnpool\..*\.SessionT_co"),
    (
        "py:class",
        r"(anyconnpool\..*\.)?(Args|T|DataT|DataT_contra|FrameT|FrameT_co|SessionT|SessionT_co)",
    ),
]

# The names that these pages refer to, in the plain text that Sphinx calls version 1: builds depend
# on no other site. To add one, write a line: `python -m sphinx.ext.intersphinx URL/objects.inv`
# lists what there is. `nox -s docs -- -b linkcheck docs docs/_build/links` tries them all.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", "inventories/python.inv"),
    "anyio": ("https://anyio.readthedocs.io/en/stable", "inventories/anyio.inv"),
    "trio": ("https://trio.readthedocs.io/en/stable", "inventories/trio.inv"),
}

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_type_aliases = {"Remote": "Remote", "Discover": "Discover"}
autodoc_preserve_defaults = True
maximum_signature_line_length = 96
add_module_names = False
toc_object_entries_show_parents = "hide"
python_display_short_literal_types = True

copybutton_prompt_text = "$ "
html_title = f"anyconnpool {release}"
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_copy_source = False
# Of one module; the general index has it, too.
html_domain_indices = False
html_show_sphinx = False

ROOT = Path(__file__).parents[1]
#: pages of the root, and the pages here that stand for them
INCLUDED = {
    "ARCHITECTURE.md": "architecture",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "README.md": "index",
    "SECURITY.md": "security",
}
#: what stands for a constant where it is a default
DEFAULTS = {
    "BUCKETS": "(0.0001, ..., 10.0)",
    "_BURST_BYTES": "1048576",
    "_DEFAULT_FORMAT": "PackageFormat()",
    "_FRAME_BYTES": "65536",
    "_NO_FAULTS": "Faults()",
    "_REST": "Retry(math.inf, interval=1, max_interval=30)",
}


class FoundOut:
    """Stand for a default that the pool finds out by itself."""

    def __repr__(self) -> str:
        return "..."


def name_settings(init: Any) -> inspect.Signature:
    """Return a signature that names each setting, with its default, in place of ``**settings``."""
    signature = inspect.signature(init)
    defaults = {field.name: field.default for field in dataclasses.fields(Settings)}
    given = list(signature.parameters.values())[1:-1]
    fixed = [parameter for parameter in given if parameter.name not in defaults]
    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=FoundOut() if name == "name" else defaults[name],
            annotation=kind,
        )
        for name, kind in typing.get_type_hints(Settings).items()
    ]
    return signature.replace(parameters=fixed + settings)


def show_defaults(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str, returned: str
) -> tuple[str, str]:
    """Put its value in the place of a constant, and keep values and types short."""
    if signature:
        signature = re.sub(r"\b(_[A-Z_]+|BUCKETS)\b", lambda match: DEFAULTS[match[0]], signature)
        signature = re.sub(r"\bFlow\(latency=.*?\)", "Flow()", signature)
        signature = signature.replace(" ssl.SSLContext", " ~ssl.SSLContext")
    # Where it stands in another type, Sphinx shows an alias as an object of a class of its own.
    alias = r"~?(?:[\w.]+\.)?TypeAliasForwardRef\('(\w+)'\)"
    signature, returned = (text and re.sub(alias, r"\1", text) for text in (signature, returned))
    return signature, returned


def expand_private_bases(
    app: Sphinx, name: str, obj: type, options: object, bases: list[Any]
) -> None:
    """Show the public bases of private ones in their place, and not what is for type checkers."""
    public: dict[Any, None] = {}
    pending = list(bases)
    while pending:
        base = pending.pop(0)
        inside = getattr(base, "__module__", "").startswith("anyconnpool.")
        if inside and base.__name__ not in anyconnpool.__all__:
            pending[:0] = base.__bases__
        elif base is not object and typing.get_origin(base) is not typing.Generic:
            public[base] = None
    bases[:] = public or [object]


def find_public_name(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, contnode: nodes.TextElement
) -> nodes.Element | None:
    """Resolve the name of a private module, or one that is documented in another module."""
    if node["refdomain"] != "py":
        return None
    # intersphinx, which comes next, sees it too.
    node["reftarget"] = target = re.sub(r"\._\w+(?=\.)", "", node["reftarget"])
    name = target.rpartition(".")[2] if target.startswith("anyconnpool.") else target
    if not name[:1].isupper():
        return None
    node["refspecific"] = True
    # What an annotation names may be a type alias, which older Sphinxes don't take for a class.
    kind = "obj" if node["reftype"] == "class" else node["reftype"]
    return env.get_domain("py").resolve_xref(
        env, node["refdoc"], app.builder, kind, name, node, contnode
    )


def redirect_links(app: Sphinx, doctree: nodes.document) -> None:
    """Make the links of an included page of the root lead to pages here, or nowhere."""
    for node in list(doctree.findall(addnodes.pending_xref)):
        target = node["reftarget"]
        if node["reftype"] != "myst" or not (ROOT / target).exists():
            continue
        if target in INCLUDED or target.startswith("docs/"):
            page = INCLUDED.get(target) or str(Path(target).relative_to("docs").with_suffix(""))
            node.attributes.update(reftype="doc", refdomain="std", reftarget=f"/{page}")
        else:
            node.replace_self(node.children)


def drop_annotation(init: Any) -> None:
    """Leave ``**settings`` without its annotation, which says nothing to readers."""
    init.__annotations__.pop("settings")


def forget_overloads(module: str) -> None:
    """Show the one signature that readers need, not those that type checkers need."""
    analyzer = ModuleAnalyzer.for_module(module)
    analyzer.analyze()
    analyzer.overloads.clear()


def private_modules(package: ModuleType) -> list[str]:
    """Return the names of the modules of a package, and of packages in it, that are private."""
    found = walk_packages(package.__path__, f"{package.__name__}.")
    return [each.name for each in found if re.match(rf"{package.__name__}\._(?!_)", each.name)]


def share_comments(public: str, *sources: str) -> None:
    """Let Sphinx find what comments say of attributes.

    It looks for them in the module that a class names, and public classes name the package that
    they are imported from, not the module that defines them.
    """
    analyzer = ModuleAnalyzer.for_module(public)
    analyzer.analyze()
    for source in sources:
        defining = ModuleAnalyzer.for_module(source)
        defining.analyze()
        analyzer.attr_docs.update(defining.attr_docs)
        analyzer.tagorder.update(defining.tagorder)


def setup(app: Sphinx) -> None:
    """Register what is above."""
    share_comments("anyconnpool", *private_modules(anyconnpool))
    share_comments("anyconnpool.events", "anyconnpool._statistics")
    share_comments("anyconnpool.testing", *private_modules(anyconnpool.testing))
    forget_overloads("anyconnpool._pool")
    forget_overloads("anyconnpool._manager")
    drop_annotation(anyconnpool.ConnectionPool.from_url)
    drop_annotation(anyconnpool.PoolManager.__init__)
    anyconnpool.ConnectionPool.__signature__ = name_settings(anyconnpool.ConnectionPool.__init__)
    app.connect("autodoc-process-signature", show_defaults)
    app.connect("autodoc-process-bases", expand_private_bases)
    app.connect("missing-reference", find_public_name, priority=400)
    app.connect("doctree-read", redirect_links)
