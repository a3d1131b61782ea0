"""Change a Python file in small ways that a test should notice: one at a time, in its syntax tree.

Numbers that stand alone at the top of a module are left as they are: they are choices, and a test could only say them
again.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_CALLED = {"min": "max", "max": "min", "any": "all", "all": "any"}

_LEFT = {"annotation", "returns", "decorator_list", "type_comment"}
"""Parts of the tree that say nothing of what is computed."""


@dataclass(frozen=True)
class Mutation:
    """One change of a file.

    Attributes:
        line: where it is, from 1.
        inside: the functions and classes around it.
        before: the changed part, as it was.
        after: the same, changed.
        source: the whole file with the change.
    """

    line: int
    inside: str
    before: str
    after: str
    source: str

    @property
    def name(self) -> str:
        """Tell the change from the others of the file, also after lines are added elsewhere."""
        return f"{self.inside}: {self.before} -> {self.after}"


def mutations(source: str) -> Iterator[Mutation]:
    """Yield all changes of a file, from its beginning to its end; two of one name are numbered."""
    tree = ast.parse(source)
    seen: dict[str, int] = {}
    for place in list(_places(tree, "")):
        for new in list(_changed(place.node)):
            before, after = _short(place.node), _short(new)
            place.put(new)
            name = f"{place.inside}: {before} -> {after}"
            seen[name] = seen.get(name, 0) + 1
            again = f" (again, {seen[name]})" if seen[name] > 1 else ""
            yield Mutation(place.node.lineno, place.inside, before, after + again, ast.unparse(tree))
            place.put(place.node)


@dataclass(frozen=True)
class _Place:
    """A node, and where it hangs in the tree: at `number` in the list, or alone (-1), of its parent's field."""

    parent: ast.AST
    field: str
    number: int
    node: ast.expr | ast.stmt
    inside: str

    def put(self, node: ast.AST) -> None:
        if self.number < 0:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.number] = node


def _places(parent: ast.AST, inside: str) -> Iterator[_Place]:
    """Find the nodes that may be changed: not types, decorators, texts, checks of our own, or what is raised."""
    for field, value in ast.iter_fields(parent):
        checked = isinstance(parent, ast.keyword) and parent.arg in ("strict", "stacklevel")
        if checked or field in _LEFT or isinstance(parent, ast.Raise | ast.JoinedStr):
            continue
        for number, node in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if not isinstance(node, ast.AST) or isinstance(node, ast.Assert):
                continue
            if isinstance(parent, ast.Module) and isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "__name__ == '__main__'"):
                continue
            name = getattr(node, "name", "") if isinstance(node, ast.FunctionDef | ast.ClassDef) else ""
            within = f"{inside}.{name}".strip(".")
            if isinstance(node, ast.expr | ast.stmt):
                yield _Place(parent, field, number, node, within)
            yield from _places(node, within)


def _changed(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    """Make the nodes that may stand in a node's place."""
    yield from _other_decisions(node)
    yield from _other_numbers(node)
    match node:
        case ast.Slice(lower, upper, step):
            if lower is not None:
                yield ast.Slice(None, upper, step)
            if upper is not None:
                yield ast.Slice(lower, None, step)
        case ast.Expr(ast.Call()) | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue():
            yield ast.Pass()


def _other_decisions(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.Compare(left, ops, comparators):
            for i, op in enumerate(ops):
                yield ast.Compare(left, [*ops[:i], _COMPARED[type(op)](), *ops[i + 1 :]], comparators)
        case ast.BoolOp(op, values):
            for i in range(len(values)):
                rest = [*values[:i], *values[i + 1 :]]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(op, rest)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.IfExp(_, body, orelse):
            yield body
            yield orelse
        case ast.If(_, body, orelse):
            yield ast.If(ast.Constant(False), body, orelse)


def _other_numbers(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    match node:
        case ast.BinOp(left, op, right) if type(op) in _COMPUTED and not (_is_text(left) or _is_text(right)):
            yield ast.BinOp(left, _COMPUTED[type(op)](), right)
        case ast.UnaryOp(ast.USub(), operand):
            yield operand
        case ast.Constant(bool()):
            pass
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(2 * value or 1.0)
        case ast.Call(ast.Name(name), arguments, keywords) if name in _CALLED:
            yield ast.Call(ast.Name(_CALLED[name], ast.Load()), arguments, keywords)


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _short(node: ast.AST) -> str:
    """A node's first line, for statements that have many."""
    return ast.unparse(ast.fix_missing_locations(node)).split("\n", 1)[0][:120]
