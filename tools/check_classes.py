#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks two rules for all our classes.

    friends    a friend is defined in the same file: a class, a function, or any operator
    methods    a class has at most 25 private methods, constructors included, deleted ones not

A heuristic reader of declarations, not a parser: it knows namespaces, classes and access labels, and
skips the bodies of functions. Exit status 1 and one line for each violation.
"""
import dataclasses
import pathlib
import re
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("guestio", "apps", "testing", "tests", "examples", "fuzz", "bench")
MAX_PRIVATE_METHODS = 25
# Comments, literals, directives and attributes: blanked, except for their line ends.
IGNORED = re.compile(
    r'//(?:\\\n|[^\n])*|/\*.*?\*/|R"(?P<end>[^(\s]*)\(.*?\)(?P=end)"|"(?:\\.|[^"\\\n])*"'
    r"|(?<![0-9a-fA-F])'(?:\\.|[^'\\\n])*'|^[ \t]*\#(?:\\\n|[^\n])*|\[\[.*?\]\]",
    re.DOTALL | re.MULTILINE)
TOKEN = re.compile(r"[A-Za-z_]\w*|::|\d[\w.']*|\S")
CLASS_KEYS = ("class", "struct", "union")
ACCESS = ("public", "protected", "private")
# A parenthesis after one of these lists no parameters.
NO_PARAMETERS = ("alignas", "decltype", "explicit", "noexcept", "requires", "sizeof")
NO_METHOD = ("friend", "using", "typedef", "static_assert")


@dataclasses.dataclass
class Scope:
    """A namespace, or a class with its access now."""
    path: list
    access: str = ""  # empty: a namespace
    line: int = 0
    private_methods: int = 0


def tokens_of(text):
    """Each token with its line."""
    text = IGNORED.sub(lambda match: " " + "\n" * match[0].count("\n"), text)
    line, at = 1, 0
    for match in TOKEN.finditer(text):
        line += text.count("\n", at, match.start())
        at = match.start()
        yield match[0], line


def is_word(token):
    return token[0].isalpha() or token[0] == "_"


def outer(statement):
    """Position and token of a statement outside of parentheses and template arguments, up to an
    initialiser. The parentheses themselves are outside."""
    round_depth = angle_depth = 0
    for at, token in enumerate(statement):
        before = statement[at - 1] if at else ""
        if token == ")":
            round_depth -= 1
        elif token == ">" and round_depth == 0 and angle_depth > 0:
            angle_depth -= 1
            continue
        elif token == "<" and round_depth == 0 and before and is_word(before) and before != "operator":
            angle_depth += 1
        if round_depth == 0 and angle_depth == 0:
            if token == "=" and "operator" not in statement[max(0, at - 2):at]:
                return
            yield at, token
        if token == "(":
            round_depth += 1


def function_name(statement):
    """The name of the declared function; None if the statement declares none."""
    for at, token in outer(statement):
        if token == "operator":
            return token
        if token != "(" or at == 0 or statement[at - 1] in NO_PARAMETERS:
            continue
        # `(*`: a pointer to a function.
        is_function = is_word(statement[at - 1]) and statement[at + 1:at + 2] not in (["*"], ["&"])
        return statement[at - 1] if is_function else None
    return None


def qualified_name(tokens):
    """The last qualified name of `tokens`, without template arguments."""
    path = []
    for _, token in outer(tokens):
        if token == ":":
            break
        if token == "::" or token in ("final", "<", ">", *CLASS_KEYS):
            continue
        if is_word(token):
            at_end = path and tokens[_ - 1] == "::"
            path = [*path, token] if at_end else [token]
    return path


def class_of(statement):
    """The class key and the qualified name of the class that the statement begins to define."""
    keys = [at for at, token in outer(statement) if token in CLASS_KEYS]
    if not keys or {"enum", "friend"} & set(statement) or function_name(statement) is not None:
        return None
    rest = statement[keys[0] + 1:]
    if rest[:1] == ["alignas"]:
        rest = rest[rest.index(")") + 1:]
    return statement[keys[0]], qualified_name(rest)


class File:
    """The classes, functions and friends of one file."""

    def __init__(self, text):
        self.tokens = list(tokens_of(text))
        self.classes = []  # the Scope of each defined class
        self.functions = set()  # names of those defined outside of classes
        self.friends = []  # line and statement of each, without those with a body
        self.scopes = [Scope([])]
        self.read()

    def read(self):
        at, statement, line = 0, [], 0
        while at < len(self.tokens):
            token, here = self.tokens[at]
            line = line if statement else here
            scope = self.scopes[-1]
            is_inside_parentheses = statement.count("(") > statement.count(")")
            at += 1
            if token == "{" and not is_inside_parentheses and self.open_scope(statement, line):
                statement = []
            elif token == "{":
                at = self.end_of_block(at)
                following = self.tokens[at][0] if at < len(self.tokens) else ""
                # An initialiser is followed by one of these, a body is not.
                if not is_inside_parentheses and following not in (";", ",", "{"):
                    self.declare(scope, statement, line, has_body=True)
                    statement = []
            elif token == "}":
                if len(self.scopes) > 1:
                    self.scopes.pop()
                statement = []
            elif token == ";" and not is_inside_parentheses:
                self.declare(scope, statement, line, has_body=False)
                statement = []
            elif token == ":" and scope.access and len(statement) == 1 and statement[0] in ACCESS:
                scope.access = statement[0]
                statement = []
            else:
                statement.append(token)

    def end_of_block(self, at):
        """The position after the brace that closes the one before `at`."""
        depth = 1
        while depth and at < len(self.tokens):
            depth += {"{": 1, "}": -1}.get(self.tokens[at][0], 0)
            at += 1
        return at

    def open_scope(self, statement, line):
        path = self.scopes[-1].path
        if "namespace" in statement or statement == ["extern"]:
            name = [token for token in statement if is_word(token)]
            self.scopes.append(Scope(path + name[name.index("namespace") + 1:] if name[1:] else path))
            return True
        found = class_of(statement)
        if found is None:
            return False
        key, name = found
        self.scopes.append(Scope(path + name, "private" if key == "class" else "public", line))
        self.classes.append(self.scopes[-1])
        return True

    def declare(self, scope, statement, line, has_body):
        name = function_name(statement)
        if "friend" in statement:
            if not has_body and name != "operator":
                self.friends.append((line, statement[statement.index("friend") + 1:]))
        elif name is None or set(NO_METHOD) & set(statement):
            return
        elif not scope.access:
            self.functions.update([name] if has_body else [])
        elif scope.access == "private" and statement[-2:] != ["=", "delete"]:
            scope.private_methods += 1

    def is_defined_here(self, friend):
        name = function_name(friend)
        if name is not None:
            return name in self.functions
        path = qualified_name(friend)
        return any(known.path[-len(path):] == path for known in self.classes)


def violations_in(where, text):
    file = File(text)
    for line, friend in file.friends:
        if not file.is_defined_here(friend):
            name = function_name(friend) or "::".join(qualified_name(friend))
            yield f"{where}:{line}: the friend {name} is not defined in this file"
    for known in file.classes:
        if known.private_methods > MAX_PRIVATE_METHODS:
            yield (f"{where}:{known.line}: {'::'.join(known.path)} has {known.private_methods} "
                   f"private methods, more than {MAX_PRIVATE_METHODS}")


def violations(root):
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".h", ".cc"):
                yield from violations_in(path.relative_to(root), path.read_text())


def methods(count, before=""):
    """A class with this many private methods, and with much that is none."""
    each = ["void f(int) const;", "int g() noexcept { if (x) { return 1; } return 2; }", "A() : x{1}, y(2) {}",
            "template <typename T> void h(T t = {}) { }", "bool operator<(const A&) const;"]  # fmt: skip
    none = ("int x{1}, y = f(2); std::function<void(int)> z; void (*p)(int); struct B { void f(); };\n"
            "A(const A&) = delete; static_assert(f()); enum class E : int { kA }; alignas(64) int w;\n"
            "// void f();\n public: void k(); protected: void m();")
    return (f"namespace n {{ {before}class [[nodiscard]] A final : private B<int(int)> {{\n"
            + "\n".join(each[at % len(each)] for at in range(count)) + none + "};\n}")


def self_test():
    """Shows that each kind of violation is found, also in a tree, and that valid classes are none."""
    cases = [
        ("class B; class A { friend class B; };", 1),
        ("class A { friend class B; }; class B {};", 0),
        ("class A { friend B; }; struct B : C {};", 0),
        ("namespace d { class P; } class A { friend class d::P; };", 1),
        ("namespace d { class P {}; } class A { friend class d::P; };", 0),
        ("namespace d { class P {}; } class A { friend class e::P; };", 1),
        ("template <class T> class A { friend d::P<T>; }; namespace d { template <> class P<int> {}; }", 0),
        ("class A { template <typename> friend class B; };", 1),
        ("class A { class B; friend class B; }; class A::B {};", 0),
        ("class A { friend void f(A); };", 1),
        ("class A { friend void f(A); }; void f(A) { }", 0),
        ("class A { friend void f(A) {} friend bool operator==(A, A) = default; };", 0),
        ("class A { friend bool operator<(const A&, const A&); };", 0),
        ("// friend class B;\nconst char* a = \"friend class B;\";", 0),
        (methods(MAX_PRIVATE_METHODS), 0),
        (methods(MAX_PRIVATE_METHODS + 1), 1),
        (methods(MAX_PRIVATE_METHODS + 1, "template <class T> "), 1),
        (methods(MAX_PRIVATE_METHODS + 1).replace("class [", "struct ["), 0),
        (methods(MAX_PRIVATE_METHODS + 1).replace(" {\n", " { private:\n").replace("class [", "struct ["), 1),
    ]  # fmt: skip
    wrong = [case for case in cases if len(list(violations_in("x.h", case[0]))) != case[1]]
    with tempfile.TemporaryDirectory() as folder:
        planted = pathlib.Path(folder, "guestio", "mem", "x.h")
        planted.parent.mkdir(parents=True)
        planted.write_text(f"#pragma once\nclass C {{\n  friend class D;\n}};\n{methods(30)}")
        found = list(violations(pathlib.Path(folder)))
    if [line.split(" ")[0] for line in found] != ["guestio/mem/x.h:3:", "guestio/mem/x.h:5:"]:
        wrong.append(found)
    print("\n".join(map(str, wrong)) if wrong else "violations are found")
    return 1 if wrong else 0


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    found = list(violations(ROOT))
    print("\n".join(found) if found else "classes have few private methods, and friends in their file")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
