"""What a conversion sees of ROOT files: which fields are taken, and their rows, run by run."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmdask.errors import FieldNotFoundError, OptionError, SchemaError, SourceError, did_you_mean
from mmdask.schema import Field, FieldData
from mmdask.short import resolve, short_names
from mmdask.sources.agreeing.renaming import check_distinct, new_names
from mmdask.sources.agreeing.shaping import Shaping
from mmdask.sources.converting.inputs import Input, digest
from mmdask.sources.converting.picked import Picked, select
from mmdask.sources.converting.recipe import Bound, Recipe
from mmdask.sources.converting.table import RUN_NBYTES, Rows, Table, UnreadableError
from mmdask.sources.root.column import Column, Tree
from mmdask.sources.root.opened import OpenTrees
from mmdask.sources.root.ranges import common_cuts, part_ranges, spans

__all__ = ["CONVERTER_VERSION", "RootFiles"]

#: raised when the same options would give other data than before
CONVERTER_VERSION = 2


@dataclass(frozen=True)
class RootFiles:
    """The reader of TTrees and RNTuples for `mmdask.sources.converting.conversion.convert`.

    `fields` and `exclude` are names and patterns of branches, `part_nbytes` the decoded bytes of a part, `recipe` what
    is computed of the rows, `shaping` how fields become others.
    """

    fields: tuple[str, ...] | None
    exclude: tuple[str, ...]
    part_nbytes: int
    recipe: Recipe = field(default_factory=Recipe)
    shaping: Shaping = field(default_factory=Shaping)
    _trees: OpenTrees = field(default_factory=OpenTrees, repr=False, compare=False)
    #: what could not be read of which input, and why: it is not tried again for each part
    _unreadable: dict[tuple[Input, str], str] = field(default_factory=dict, repr=False, compare=False)
    kind = "ROOT"

    @property
    def options(self) -> dict[str, Any]:
        """What decides which data the layers hold, as JSON."""
        fields = None if self.fields is None else list(self.fields)
        exclude = list(self.exclude)
        options = {"fields": fields, "exclude": exclude, "part_nbytes": self.part_nbytes}
        return {**options, "converter": CONVERTER_VERSION, **self.recipe.options, **self.shaping.options}

    def inspect(self, source: Input) -> Table:
        """What the metadata of one input say; no basket is read."""
        with self._trees.inspect(source) as tree:
            members = self._members(tree)
            names, used = _select(members, self.fields, self.exclude, source.name, self.shaping.modes.lenient)
            exact = [e for n in self.fields or () for e in members.of.get(n, ()) if e in names]
            found = {name: members.layout(name) for name in names}
            fields = tuple(f for f in found.values() if isinstance(f, Field))
            skipped = [(name, why) for name, why in found.items() if isinstance(why, str) and why]
            skipped += [(name, "a second branch of this name") for name in members.doubles if name in found]
            for name in self.fields or ():
                self._check_named(source, name, [found[e] for e in members.of.get(name, ()) if e in found])
            if not fields and not self.recipe.aliases:
                raise self._no_field(source, tree, names, skipped)

            called = _Names(members, self.shaping)
            check_distinct({f.name: called.new[f.name] for f in fields}, source.name)
            bound, more = self._bind(source, members, called)
            stored = list(fields)
            read = {f.name: f for f in (*fields, *more)}
            sizes = {name: members.nbytes(name) for name in read}
            stored_nbytes = sum(sizes[f.name] for f in stored)
            groups: dict[str, list[str]] = {}
            for name in read:
                groups.setdefault(members.owner[name], []).append(name)
            cuts = common_cuts(members.column(members.owner[next(iter(names))]).offsets for names in groups.values())
            ranges = part_ranges(tree.rows, stored_nbytes or sum(sizes.values()), self.part_nbytes, [cuts])
            touched = {members.owner[name] for name in (*names, *read)}
            fingerprint = digest(
                tree.name, tree.rows, [(name, tree.types[name]) for name in tree.columns if name in touched]
            )
            fields = tuple(called.field(f) for f in fields)
            if bound is not None:
                fields += tuple(f for name, _ in self.recipe.aliases for f in bound.fields if f.name == name)
            pads, padding = self.shaping.pads_of({called.new[f.name]: f.name for f in stored})
        return Table(
            source,
            tree.name,
            fields,
            tuple((called.new.get(name, name), why) for name, why in skipped),
            ranges,
            {called.new[name]: nbytes for name, nbytes in sizes.items()},
            frozenset(called.new[name] for name in exact),
            fingerprint,
            bound,
            {name: tuple(names) for name, names in groups.items()},
            cuts,
            reads=tuple(called.field(f) for f in more if f.name not in found) if bound is None else (),
            names=tuple(called.old) if self.shaping else (),
            origins={new: old for new, old in called.old.items() if new != old},
            renamed=called.renamed,
            pads=pads,
            asked=tuple(("fields", p) for p in self.fields or ()) + tuple(("exclude", p) for p in self.exclude),
            used=frozenset({*used, *(("rename", p) for p in called.used), *(("pad", p) for p in padding)}),
        )

    def _members(self, tree: Tree) -> _Members:
        """The fields of a tree; only those that are named where no other can be meant."""
        named = (*(self.fields or ()), *self.exclude)
        few = self.fields is not None and not self.recipe and not self.shaping.rename
        return _Members(tree, named if few and all(name in tree.columns for name in named) else tree.columns)

    def _bind(self, source: Input, members: _Members, called: _Names) -> tuple[Bound | None, list[Field]]:
        """What is computed, and the fields of the input that it reads.

        Where an input may lack a field that others have, it is checked only when the fields of all are known.
        """
        if not self.recipe:
            return None, []
        recipe = self.recipe.with_new_names(called.renamed)
        if not self.shaping.modes.fills:
            bound = recipe.bind(source, called.old, lambda name: called.layout(members, name))
            return bound, [replace(f, name=called.old[f.name]) for f in bound.reads]
        reads = []
        for name in recipe.needs(called.old, source.name):
            found = members.layout(called.old[name])
            if not isinstance(found, Field):
                why = found or f"it is a group; its members are `{name}/...`"
                raise SchemaError(f"{source.name}: {name!r}, which an expression names, cannot be read: {why}")
            reads.append(found)
        return None, reads

    def _check_named(self, source: Input, name: str, found: Sequence[Field | str]) -> None:
        """Raise `SchemaError` for something that was asked for by name, and of which nothing can be converted."""
        if found and not any(isinstance(f, Field) for f in found):
            why = found[0] or f"a group of branches; name them as '{name}/*'"
            raise SchemaError(f"{source.name}: {name!r} cannot be converted: {why}")

    def _no_field(
        self, source: Input, tree: Tree, names: Mapping[str, None], skipped: Sequence[tuple[str, str]]
    ) -> OptionError | SourceError:
        """The error for a tree of which nothing is taken."""
        if not tree.columns:
            return SourceError(f"{source.name}: no field can be converted: the tree has no branches")
        chosen = f"fields={self.fields and list(self.fields)!r} and exclude={list(self.exclude)!r}"
        if not names:
            return OptionError(
                f"{source.name}: no field is selected: {chosen} leave none of the {len(tree.columns)} branches"
            )
        why = "; ".join(f"{name!r}: {why}" for name, why in skipped[:5])
        if not why:
            groups = ", ".join(f"'{name}/*'" for name in list(names)[:5])
            return OptionError(f"{source.name}: no field is selected: {chosen} leave only groups; name {groups}")
        return SourceError(f"{source.name}: no field can be converted: {why}")

    def keeping(self) -> contextlib.AbstractContextManager[None]:
        """Within it, inputs that were inspected stay open to be read, unless they are many."""
        return self._trees.keeping()

    @contextlib.contextmanager
    def open(self, table: Table) -> Iterator[Rows]:
        """Open an inspected input for reading."""
        with self._trees.read(table.source) as tree:
            owner = {name: column for column, names in table.groups.items() for name in names}

            def rows(
                fields: Sequence[Field],
                start: int,
                stop: int,
                *,
                nbytes: int = RUN_NBYTES,
                picked: Picked | None = None,
            ) -> Iterator[tuple[FieldData, ...]]:
                name = owner[fields[0].name]
                column = self._unreadable.get((table.source, name), tree.columns[name])
                if isinstance(column, str):
                    raise UnreadableError(column)
                try:
                    yield from read_runs(column, fields, start, stop, nbytes, picked)
                except UnreadableError as error:
                    self._unreadable[table.source, name] = str(error)
                    raise

            yield rows


class _Members:
    """The fields of some columns of a tree by name, and those that become none.

    `of` says what each name means: a field itself, a column all its fields. `owner` is the column of each field.
    """

    def __init__(self, tree: Tree, columns: Iterable[str]) -> None:
        self._tree = tree
        self.owner: dict[str, str] = {}
        self.of: dict[str, tuple[str, ...]] = {}
        self.doubles = list(tree.doubles)
        self._layouts: dict[str, Field | str] = {}
        for name in dict.fromkeys(columns):
            column = tree.columns[name]
            found: dict[str, Field | str] = {name: column} if isinstance(column, str) else {}
            if not isinstance(column, str):
                found = {**dict(column.skipped), **{f.name: f for f in column.fields}}
            for member, layout in found.items():
                # A branch of this very name has it, wherever it stands.
                if member in self.owner or (member != name and member in tree.columns):
                    self.doubles.append(member)
                else:
                    self.owner[member] = name
                    self._layouts[member] = layout
                    self.of.setdefault(member, (member,))
            self.of[name] = tuple(member for member in found if self.owner.get(member) == name)

    def layout(self, name: str) -> Field | str:
        """The field of a name, or why there is none."""
        if name in self._layouts:
            return self._layouts[name]
        some = ", ".join(self.of[name][:5]) + (", ..." if len(self.of[name]) > 5 else "")
        return f"it is an object; name one of its members: {some}"

    def is_field(self, name: str) -> bool:
        return isinstance(self._layouts.get(name), Field)

    def column(self, name: str) -> Column:
        column = self._tree.columns[name]
        assert not isinstance(column, str)
        return column

    def nbytes(self, name: str) -> int:
        """Decoded bytes of a field, about."""
        column = self.column(self.owner[name])
        return next(n for f, n in zip(column.fields, column.nbytes, strict=True) if f.name == name)


class _Names:
    """What the fields of an input are called in the store.

    `new` are the new names of all, `old` the other way round, `renamed` those that are others and, in expressions, can
    mean nothing else; `used` are the entries of `rename` that fitted one.
    """

    def __init__(self, members: _Members, shaping: Shaping) -> None:
        fields = {name for name in members.of if members.is_field(name)}
        self.new, self.used = new_names(members.of, shaping.rename, fields)
        others = {old: new for old, new in self.new.items() if old != new}
        # fields last: the new name of an object may be that of a field
        ranked = sorted(self.new, key=lambda old: (old in fields, old in others))
        order = {name: i for i, name in enumerate(self.new)}
        owner = {self.new[old]: old for old in ranked}
        self.old = dict(sorted(owner.items(), key=lambda pair: (pair[1] in others, order[pair[1]])))
        self.renamed = {old: new for old, new in others.items() if old not in self.old}
        short = short_names(self.old)
        for name, meant in short_names(members.of).items():
            if len(meant) == 1 and meant[0] in self.renamed and name not in self.old and name not in short:
                self.renamed[name] = self.renamed[meant[0]]

    def field(self, f: Field) -> Field:
        """A field of the input under its new name."""
        return f if self.new[f.name] == f.name else replace(f, name=self.new[f.name])

    def layout(self, members: _Members, name: str) -> Field | str:
        """That of a new name."""
        found = members.layout(self.old[name])
        return self.field(found) if isinstance(found, Field) else found


def _select(
    members: _Members, fields: Sequence[str] | None, exclude: Sequence[str], where: str, lenient: bool = False
) -> tuple[dict[str, None], set[tuple[str, str]]]:
    """Fields that `fields` match and `exclude` does not, in the order of `fields`, and which patterns match.

    Every pattern must match, unless that is seen to when all inputs are known.
    """
    known = members.of
    used: set[tuple[str, str]] = set()

    def match(word: str, patterns: Sequence[str]) -> dict[str, None]:
        found: dict[str, None] = {}
        unknown: list[str] = []
        for pattern in patterns:
            # An exact name first: a name may hold brackets.
            hits = [pattern] if pattern in known else fnmatch.filter(known, pattern)
            if not hits and (short := resolve(pattern, known)):
                hits = [short]
            if hits:
                used.add((word, pattern))
            elif not lenient:
                unknown.append(pattern)
            found.update(dict.fromkeys(member for hit in hits for member in known[hit]))
        if unknown:
            near = [did_you_mean(pattern, known) for pattern in unknown]
            texts = [f"no field {pattern!r}{text}" for pattern, text in zip(unknown[:10], near, strict=False)]
            some = ", ".join(list(known)[:20]) + (f", ... ({len(known)} in all)" if len(known) > 20 else "")
            rest = f"; and {len(unknown) - 10} more like it" if len(unknown) > 10 else ""
            listing = "" if all(near) else f"; the fields are: {some}"
            raise FieldNotFoundError(f"{where}: {'; '.join(texts)}{rest}{listing}")
        return found

    kept = dict.fromkeys(members.owner) if fields is None else match("fields", fields)
    dropped = match("exclude", exclude)
    return {name: None for name in kept if name not in dropped}, used


def read_runs(
    column: Column, fields: Sequence[Field], start: int, stop: int, limit: int, picked: Picked | None
) -> Iterator[tuple[FieldData, ...]]:
    """Rows of a column, run by run, each basket once; baskets without any picked row are left out."""
    for first, last in [(start, stop)] if picked is None else spans(start, stop, column.offsets, picked):
        at = first
        for end in column.ends(first, last, limit, fields):
            run = column.read(at, end, fields)
            for data in run:
                if len(data) != end - at:
                    raise UnreadableError(f"damaged, it gives {len(data)} rows for rows {at} to {end}")
            if picked is not None:
                mask = picked.mask(at, end)
                run = tuple(select(data, mask) for data in run)
            yield run
            del run  # before the next is read
            at = end
