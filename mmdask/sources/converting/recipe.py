"""What a conversion computes from the rows of its inputs: a cut, aliases and sums of weights; as text, then checked."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mmdask.errors import ExpressionError, OptionError, SchemaError
from mmdask.expr import SEMANTICS, Expression, canonical, check, check_cut, parse, spelled_name
from mmdask.kernels.once import once
from mmdask.rows.cuts.naming import renamed_text
from mmdask.rows.sums.counting import check_number
from mmdask.rows.views.derived import derive
from mmdask.rows.views.virtual import Derived, names_in
from mmdask.schema import Field, Schema, check_name
from mmdask.short import ambiguous, short_name, short_names
from mmdask.sources.converting.inputs import Input, Label, label_fields

__all__ = ["Bound", "Recipe", "make_recipe"]


@dataclass(frozen=True)
class Bound:
    """A recipe that was checked against the fields of one input.

    Parameters
    ----------
    cut : Expression, optional
        Which rows are kept.
    aliases : tuple of Derived
        In an order in which they can be computed.
    weights : tuple of Expression
        What is summed over all rows, before the cut. These, and the cut, may read aliases.
    reads : tuple of Field
        The fields of the input that all of these need.
    labels : tuple of (Field, value)
        The labels of the input.
    """

    cut: Expression | None
    aliases: tuple[Derived, ...]
    weights: tuple[Expression, ...]
    reads: tuple[Field, ...]
    labels: tuple[tuple[Field, Label], ...]

    @property
    def fields(self) -> list[Field]:
        """What the aliases become."""
        return [d.field for d in self.aliases]


@dataclass(frozen=True)
class Recipe:
    """A cut, aliases and weights as the user wrote them; made by `make_recipe`.

    `labels` are the fields that the labels of all inputs become.
    """

    cut: str = ""
    aliases: tuple[tuple[str, str], ...] = ()
    weights: tuple[str, ...] = ()
    labels: tuple[Field, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.cut or self.aliases or self.weights)

    @property
    def options(self) -> dict[str, Any]:
        """What decides what is computed, as JSON: equal for equal meanings; empty if nothing is."""
        options: dict[str, Any] = {}
        if self.cut:
            options["cut"] = canonical(parse(self.cut))
        if self.aliases:
            options["aliases"] = {name: canonical(parse(text)) for name, text in self.aliases}
        if self.weights:
            options["weights"] = [canonical(parse(text)) for text in self.weights]
        return {**options, "semantics": SEMANTICS} if options else {}

    @once
    def names(self) -> frozenset[str]:
        """All that the expressions name but aliases: fields and labels, as they are written."""
        texts = (*([self.cut] if self.cut else []), *(text for _, text in self.aliases), *self.weights)
        return frozenset(n for text in texts for n in names_in(text, text)) - {name for name, _ in self.aliases}

    def labels_of(self, source: Input) -> dict[str, Label]:
        """The labels of an input that the expressions name: with others, its rows would be others."""
        return {name: value for name, value in source.labels if {name, short_name(name)} & self.names}

    def with_new_names(self, names: Mapping[str, str]) -> Recipe:
        """The same, which names fields by the new names that they got."""
        if not self.names & names.keys():
            return self
        return replace(
            self,
            cut=renamed_text(self.cut, names) if self.cut else "",
            aliases=tuple((name, renamed_text(text, names)) for name, text in self.aliases),
            weights=tuple(renamed_text(text, names) for text in self.weights),
        )

    def needs(self, names: Collection[str], where: str) -> list[str]:
        """Those of the fields of an input that the expressions name, also by short names."""
        found: set[str] = set()
        short = short_names(names)
        labels = {f.name for f in self.labels}
        for name in self.names - labels:
            meant = [name] if name in names else short.get(name, ())
            if len(meant) > 1:
                raise ExpressionError(f"{where}: {ambiguous(name, meant)}")
            found.update(meant)
        return sorted(found)

    def bind(self, source: Input, names: Collection[str], layout: Callable[[str], Field | str]) -> Bound:
        """Check everything against the fields of an input. Reads no data.

        Parameters
        ----------
        source : Input
            The input.
        names : collection of str
            Of all its fields.
        layout : callable
            From one of them to the Field that it is, or to the reason why it is none.

        Raises
        ------
        ExpressionError
            With a caret under the place.
        SchemaError
            When an alias has the name of a field, or a field that is needed cannot be read.
        OptionError
            When a weight is no number per row.
        """
        labels = {f.name: f for f in self.labels}
        for name, _ in self.aliases:
            if name in names:
                raise SchemaError(
                    f"{source.name}: the alias {name!r} is also a field there, so that nobody could tell which of the "
                    "two is meant; give the alias another name"
                )
        if both := [name for name in self.names if name in names and name in labels]:
            raise SchemaError(
                f"{source.name}: {both[0]!r}, which an expression names, is both a label and a field there; "
                "rename the label"
            )
        needed = self.needs(names, source.name)
        reads = {name: layout(name) for name in needed}
        for name, found in reads.items():
            if isinstance(found, str):
                why = found or f"it is a group; its members are `{name}/...`"
                raise SchemaError(f"{source.name}: {name!r}, which an expression names, cannot be read: {why}")
        fields = [f for f in reads.values() if isinstance(f, Field)]
        known = [*fields, *self.labels]
        short = short_names(names)
        if any(name not in names and name not in labels and name not in short for name in self.names):
            # for the message: it proposes the nearest of all names
            others = (layout(name) for name in names if name not in reads and name not in labels)
            known += [f for f in others if isinstance(f, Field)]
        schema = Schema(known)
        with _of(source.name):
            derived = derive(dict(self.aliases), schema)
        schema = Schema([*known, *(d.field for d in derived)])
        with _of(f"{source.name}, cut"):
            cut = check_cut(self.cut, schema) if self.cut else None
        weights = []
        for text in self.weights:
            with _of(f"{source.name}, weight"):
                weights.append(check_number(text, check(spelled_name(text) if text in schema else text, schema)))
        values = tuple((labels[name], value) for name, value in source.labels)
        return Bound(cut, tuple(derived), tuple(weights), tuple(fields), values)


@contextlib.contextmanager
def _of(what: str) -> Iterator[None]:
    """Say of an error of an expression which it is of."""
    try:
        yield
    except ExpressionError as error:
        notes = "".join(f", {note}" for note in getattr(error, "__notes__", []))
        raise ExpressionError(f"{what}{notes}: {error}") from None


def make_recipe(
    cut: str | None, aliases: Mapping[str, str] | None, weights: str | Iterable[str], inputs: Iterable[Input]
) -> Recipe:
    """The recipe that a user's arguments say.

    Raises
    ------
    ExpressionError
        When one cannot be parsed.
    OptionError
        When arguments are of other types, or an alias has the name of a label.
    """
    if cut is not None and not isinstance(cut, str):
        raise OptionError(f"cut is text, as in 'nJets >= 4'; got {type(cut).__name__}")
    if aliases is not None and not isinstance(aliases, Mapping):
        raise OptionError(f"aliases map names to expressions, as {{'ht': 'sum(jet_pt)'}}; got {aliases!r}")
    pairs = tuple((aliases or {}).items())
    if isinstance(weights, Mapping):
        raise OptionError(
            "weights are names or expressions, as a list, and not a mapping; an expression gets a name as an alias, "
            "which a weight may be"
        )
    texts = (weights,) if isinstance(weights, str) else tuple(weights) if isinstance(weights, Iterable) else (weights,)
    labels = label_fields(inputs)
    if cut is not None:
        with _of("cut"):
            parse(cut)
    for name, text in pairs:
        check_name(name)
        if not isinstance(text, str):
            raise OptionError(f"the alias {name!r} is an expression, as text; got {text!r}")
        if name in {f.name for f in labels}:
            raise OptionError(f"{name!r} is both an alias and a label; rename one of them")
        with _of(f"alias {name!r}"):
            parse(text)
    for text in texts:
        if not isinstance(text, str):
            raise OptionError(f"weights are names of fields, or expressions, as text; got {text!r}")
        with _of("weight"):
            parse(text)
    return Recipe((cut or "").strip(), pairs, tuple(dict.fromkeys(texts)), tuple(labels))
