"""Templates at random from the grammar, most of them well formed, for comparing two interpreters."""

import random

NAMES = ["messages", "row", "s", "u", "e", "x", "y", "ns", "loop", "missing"]
TEXTS = ["", "a", "ab", " a ", "\\n", "é", "user", "role", "1", "-2", "x,y", "😀", "l", "</think>", "  "]
NUMBERS = ["0", "1", "2", "3", "-1", "7", "10", "1.5", "0.25", "100"]
BINARY = ["+", "-", "*", "//", "%", "/", "~", "==", "!=", "<", ">", "<=", ">=", "in", "not in", "and", "or"]
FILTERS = ["trim", "upper", "lower", "length", "first", "last", "list", "join(',')", "default('d')", "tojson", "string",
           "int", "reverse|list", "sort", "unique|list", "capitalize", "replace('a', 'b')", "select|list", "sum", "max",
           "map('upper')|list", "map(attribute='role')|list", "selectattr('role', 'equalto', 'user')|list", "abs",
           "title", "indent", "items|list", "round", "float", "reject('none')|list"]
TESTS = ["defined", "none", "string", "mapping", "iterable", "number", "sequence", "odd", "true", "eq 1", "in [1, 'a']"]
METHODS = [".strip()", ".split(',')", ".startswith('a')", ".upper()", ".replace('a', 'z')", ".lstrip('\\n')", ".get('a')",
           ".items()", ".keys()", ".role", ".content", ".a", ".b", ".x", ".index", "[0]", "[-1]", "['a']", "[1:]", "[::-1]",
           "[:2]", ".find('l')", ".rstrip()", ".endswith('o')", ".splitlines()", ".count('l')", "['role']", ".title()"]
GAPS = ["", " ", "\n", " \n ", "text", "\n  ", "a\n"]


class Maker:
    def __init__(self, source: random.Random):
        self.source = source

    def pick(self, choices):
        return self.source.choice(choices)

    def atom(self):
        kind = self.source.randrange(8)
        if kind < 3:
            return self.pick(NAMES)
        if kind < 5:
            return "'" + self.pick(TEXTS) + "'"
        return self.pick(NUMBERS) if kind < 7 else self.pick(["true", "false", "none", "[]", "{}", "()", "[1, 'a']", "{'a': 1}"])

    def expression(self, depth=3):
        if depth == 0 or self.source.random() < 0.2:
            return self.atom()
        kind, inner = self.source.randrange(9), self.expression(depth - 1)
        if kind == 0:
            return f"({inner} {self.pick(BINARY)} {self.expression(depth - 1)})"
        if kind == 1:
            return f"{inner} {self.pick(BINARY)} {self.expression(depth - 1)}"
        if kind == 2:
            return f"({inner})|{self.pick(FILTERS)}"
        if kind == 3:
            return f"({inner}){self.pick(METHODS)}"
        if kind == 4:
            return f"({inner}) is {self.pick(['', 'not '])}{self.pick(TESTS)}"
        if kind == 5:
            return f"({inner} if {self.expression(depth - 1)} else {self.expression(depth - 1)})"
        if kind == 6:
            return f"[{inner}, {self.expression(depth - 1)}]"
        if kind == 7:
            return f"not {inner}"
        return f"{self.pick(NAMES)}{self.pick(METHODS)}"

    def tag(self, text):
        return "{%" + self.pick(["", "", "-"]) + " " + text + " " + self.pick(["", "", "-"]) + "%}"

    def statement(self, depth):
        kind = self.source.randrange(7)
        if kind == 0:
            return self.tag(f"set {self.pick(['x', 'y'])} = {self.expression()}")
        if kind == 1:
            head = self.tag(f"if {self.expression(2)}")
            middle = self.tag("else") + self.body(depth) if self.source.random() < 0.5 else ""
            return head + self.body(depth) + middle + self.tag("endif")
        if kind == 2:
            things = self.pick(["messages", "row.b", "row", "'aé'", "range(3)", self.expression(1)])
            return self.tag(f"for x in {things}") + self.body(depth) + self.tag("endfor")
        if kind == 3:
            return self.tag("set ns = namespace(x=0)") + self.body(depth) + self.tag(f"set ns.x = {self.expression(1)}")
        if kind == 4:
            return self.tag("set y") + self.body(depth) + self.tag("endset")
        if kind == 5:
            return self.tag("macro x(y=1)") + self.body(depth) + self.tag("endmacro") + "{{ x(2) }}"
        return "{#" + self.pick(["", "-"]) + " note " + self.pick(["", "-"]) + "#}"

    def body(self, depth):
        parts = []
        for _ in range(self.source.randint(1, 3)):
            parts.append(self.pick(GAPS))
            if depth > 0 and self.source.random() < 0.5:
                parts.append(self.statement(depth - 1))
            else:
                dash = self.pick(["", "-"])
                parts.append("{{" + dash + " " + self.expression() + " " + self.pick(["", "-"]) + "}}")
        return "".join(parts) + self.pick(GAPS)

    def template(self):
        return self.body(2)
