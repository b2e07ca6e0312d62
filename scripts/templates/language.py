"""Templates that use one feature of the language each: (source, values given). What they give is jinja2's to say."""

MESSAGES = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
ROW = {"a": 1, "b": [1, 2, 3], "c": {"k": "v"}, "d": None, "e": True, "f": 1.5, "s": "Hello"}

EXPRESSIONS = """
1 + 2 * 3
(1 + 2) * 3
7 // 2
-7 // 2
-7 % 3
7 % -3
2 ** 3 ** 2
-2 ** 2
7 / 2
6 / 2
1.5 + 1
0.1 + 0.2
1e16
1e15
1.0e-5
0.0001
123456789.123
1/3
100000000000000000000.0
-0.0
true + true
"a" + "b"
"a" ~ 1 ~ none ~ true ~ 1.5
"ab" * 3
2 * "ab"
"ab" * -1
[1, 2] + [3]
[0] * 3
(1, 2) + (3,)
[1, "a", none, true, 1.5, [2], {"k": "v"}, (1,), ()]
{"a": 1, "b": {"c": [1, 2]}}
"it's"
["it's", 'say "x"', "a\\\\b", "n\\nl", "both ' and \\""]
["\\x00\\x1f\\x7f", "é", "\\u00a0", "😀"]
"\\x41\\u00e9\\U0001F600\\101\\q"
'a' "b" 'c'
1 == 1.0
true == 1
"1" == 1
none == none
[1, 2] == [1, 2]
[1] == (1,)
{"a": 1} == {"a": 1.0}
1 < 2 < 3
1 < 3 < 2
"a" < "b"
"é" > "z"
[1, 2] < [1, 3]
(1, 2) < (1, 2, 3)
not true
not ""
not 0 and 1
1 and 2
0 or "x"
"" or none
1 or 1/0
"ell" in s
"x" not in s
"a" in row
2 in row.b
9 not in row.b
1 in (1, 2)
missing in [1]
"x" if e else "y"
"x" if false
"x" if false else "y" if false else "z"
(1 if e) == 1
row.a
row["a"]
row.c.k
row["c"]["k"]
row.missing
row["missing"]
row.b[0]
row.b[-1]
row.b[9]
row.b.0
s[0]
s[-1]
s[9]
s[1:3]
s[:-1]
s[::-1]
s[::2]
s[4:1:-1]
s[-3:]
row.b[1:]
row.b[::-1]
row.b[:2]
row.b[5:]
row.b[-2:]
(1, 2, 3)[1:]
u[0]
u[1:3]
u[::-1]
u|length
u|upper|length
s.upper()
s.lower()
s.title()
"hELLO wORLD".capitalize()
"hello world-again (x)".title()
s.startswith("He")
s.startswith(("x", "H"))
s.endswith("lo")
s.startswith("l", 2)
s.find("l")
s.rfind("l")
s.find("z")
s.count("l")
s.replace("l", "L")
s.replace("l", "L", 1)
s.replace("", "-")
"  a b  ".strip()
"  a b  ".lstrip() ~ "|"
"  a b  ".rstrip() ~ "|"
"xxaxx".strip("x")
"\\n\\na\\n".strip("\\n")
"\\u3000a\\u00a0".strip()
"a,b,c".split(",")
"a,b,c".split(",", 1)
"a b  c ".split()
" a b c".split(none, 1)
"a b".split(" ")
"".split()
"".split(",")
"a,b,c".rsplit(",", 1)
"a\\nb\\r\\nc\\n".splitlines()
"a=b=c".partition("=")
"a=b=c".rpartition("=")
"a".partition("=")
"-".join(["a", "b"])
"abc".removeprefix("a") ~ "abc".removesuffix("c")
"12".isdigit()
"a1".isalnum()
"ab".isalpha()
" ".isspace()
"A".isupper()
"a</think>b</think>c".split("</think>")[-1]
row.items()|list
row.keys()|list
row.values()|list
row.get("a")
row.get("z")
row.get("z", "def")
row.c.items()
{"items": 1}.items()|list
{"items": 1}["items"]
[3, 1, 2].index(1)
[1, 1, 2].count(1)
s|length
row.b|length
row|length
row.b|first
row.b|last
[]|first
row.b|join(", ")
row.b|join
messages|join(", ", attribute="role")
["b", "a", "C"]|sort
["b", "a", "C"]|sort(reverse=true)
["b", "a", "C"]|sort(case_sensitive=true)
messages|sort(attribute="role")|map(attribute="role")|list
[1, 2, 1]|unique|list
["a", "A", "b"]|unique|list
[1, 2, 3]|sum
[1, 2, 3]|max
[3, 1, 2]|min
[]|max
[1, 2, 3]|reverse|list
"abc"|reverse
"abc"|list
row.c|list
missing|default("x")
none|default("x")
none|default("x", true)
""|d("x", true)
missing|default
" a "|trim
"xax"|trim("x")
42|string + "!"
"42"|int + 1
"x"|int
"x"|int(7)
"3.7"|int
3.7|int
"1.5"|float
"x"|float
"ff"|int(0, 16)
-3|abs
3.14159|round(2)
2.5|round
2.4|round(0, "ceil")
2.6|round(method="floor")
7|round
s|upper
s|lower
s|capitalize
"a b-c d"|title
"aXbX"|replace("X", "-")
"aXbX"|replace("X", "-", 1)
1.5|replace(".", ",")
"a\\nb\\n\\nc"|indent
"a\\nb"|indent(2, true)
"a\\n\\nb"|indent(2, blank=true)
"a\\nb"|indent("> ")
row|tojson
row|tojson(indent=2)
row|tojson(indent=2, sort_keys=true)
[]|tojson(indent=2)
{}|tojson
[[], {}, [1]]|tojson(indent=1)
"é\\"\\n<>&'"|tojson
"é😀"|tojson(ensure_ascii=true)
row|tojson(separators=(",", ":"))
(1, none, true)|tojson
1.0|tojson
{"b": 1, "a": 2}|dictsort
{"b": 1, "a": 2}|dictsort(by="value", reverse=true)
{"b": 1, "a": 2}|items|list
messages|selectattr("role", "equalto", "user")|list
messages|selectattr("role", "in", ["user", "system"])|map(attribute="content")|list
messages|rejectattr("role", "equalto", "system")|map(attribute="role")|join("/")
messages|selectattr("missing")|list
messages|selectattr("missing", "defined")|list
[1, 2, 3, 4]|select("odd")|list
[1, 2, 3, 4]|reject("odd")|list
[0, 1, "", "a"]|select|list
[1, 2, 3]|select("gt", 1)|list
["a", "b"]|map("upper")|list
messages|map(attribute="role")|list
messages|map(attribute="x", default="-")|join
[[1, "a"], [2, "b"]]|map(attribute=1)|list
messages|map("tojson")|join(",")
1 if messages|selectattr("role", "equalto", "nobody") else 2
missing is defined
missing is undefined
s is defined
row.missing is defined
row.d is none
row.d is not none
s is string
1 is number
true is number
1 is integer
true is integer
1.5 is float
1.5 is integer
true is boolean
true is true
1 is true
false is false
row is mapping
s is mapping
s is iterable
1 is iterable
missing is iterable
s is sequence
row is sequence
1 is sequence
missing is sequence
range is callable
3 is odd
3 is even
9 is divisibleby 3
9 is divisibleby(2)
1 is eq 1
1 is ne 2
2 is gt 1
"user" is in ["user"]
"a" is lower
"A" is upper
none is sameas none
not missing is defined
s is string and s|length > 3
range(3)|list
range(1, 4)|list
range(5, 0, -2)|list
range(3)
range(3)[1]
range(0)|list
dict(a=1, b="x")
dict([["a", 1]])
namespace(a=1).a
namespace().a is defined
[1, 2, 3] | length > 2
-1|abs
- 1 | abs
"%d" ~ 5
"a" "b" ~ "c"
(1,)
1, 2
()
[1, 2,]
{"a": 1,}
true and not false
1 == 1 and 2 == 2 or 3 == 4
"a" ~ "b" == "ab"
"a" + "b" ~ "c" + "d"
1 + 1 ~ 2 * 3
raise_exception is defined
strftime_now is defined
tools is defined
strftime_now("%d %b %Y") is string
"x".__class__ is defined
row["__class__"] is defined
"a" in "abc" and "d" not in "abc"
("a" in "abc") == true
not "a" in "abc"
"abc"[1]
"abc"["upper"]()
missing == missing
missing == none
[missing]
loop is defined
1_000
0x1F
0b101
0o17
1.5e3
"a".upper().lower()
"a|b".split("|")|join("+")
[1, [2, [3]]][1][1][0]
{"a": {"b": [10, 20]}}.a.b[1]
{1: "x"}[1]
{none: "x"}[none]
{"a": 1, "a": 2}
"1" in {"1": 2}
(messages|last).role
(messages|first)["role"]
messages[-1].role
messages[1:]|length
messages[0]["role"] == "system"
"""

TEMPLATES = [
    "a{# comment #}b", "a {#- c -#} b", "a\n{# c #}\nb", "a\n   {# c #}\nb", "{{ 1 }}\n{{ 2 }}\n", "x\n", "x\n\n", "\n", "",
    "a\r\nb\rc", "{% if true %}\nx\n{% endif %}\ny", "  {% if true %}\n  x\n  {% endif %}\n  y",
    "a  {%- if true -%}  b  {%- endif -%}  c", "a\n  {%+ if true %}b{% endif %}", "{% if true +%}\nx{% endif %}",
    "a {{- 1 -}} b", "a\n{{- 1 -}}\nb", " \n {{ 1 }} \n ", "{%- if true %} x {%- endif %} y", "\t{% if true %}\n\tx{% endif %}",
    "a {% if true %} b {% endif %} c", "{% raw %}{{ x }}{% endraw %}", "{%- raw -%} {{ x }} {%- endraw -%} y",
    "a\n  {% raw %}\n x\n  {% endraw %}\nb", "{{ '{{' }} {{ '%}' }}", "{{ {'a': {'b': 1}}['a']['b'] }}",
    "{% for i in [1, 2, 3] %}{{ i }}{% endfor %}", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n",
    "{% for i in [] %}x{% else %}none{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}",
    "{% for k, v in row.items() %}{{ k }}={{ v }};{% endfor %}", "{% for k in row %}{{ k }}{% endfor %}",
    "{% for c in 'aé😀' %}[{{ c }}]{% endfor %}", "{% for (a, b) in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem }}<{{ i }}>{{ loop.nextitem }} {% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }} {% endfor %}",
    "{% for i in [1, 2, 3] %}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }} {% endfor %}",
    "{% for i in [1, 2] %}{% for j in [1, 2] %}{{ loop.index }}{{ loop.depth }} {% endfor %}{{ loop.index }}|{% endfor %}",
    "{% for i in range(9) if i is odd %}{{ loop.index }}:{{ i }} {% endfor %}",
    "{% for m in messages if m.role != 'system' %}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in [3, 1, 2]|sort %}{{ i }}{% endfor %}", "{% for i in 1, 2 %}{{ i }}{% endfor %}",
    "{% for m in messages|selectattr('role', 'equalto', 'user') %}{{ loop.length }}{{ m.content }}{% endfor %}",
    "{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}",
    "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% for i in [1, 2] %}{{ x is defined }}{% set x = i %} {% endfor %}",
    "{% set ns = namespace(x=0) %}{% for i in [1, 2, 3] %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(found=false, list=[]) %}{% for i in [1, 2] %}{% set ns.list = ns.list + [i] %}{% endfor %}{{ ns.list }}{{ ns.found }}",
    "{% set a, b = 1, 2 %}{{ b }}{{ a }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}a{{ 1 }}b{% endset %}[{{ x }}]",
    "{% set x | upper %}abc{% endset %}{{ x }}", "{% set x %}\n  a\n{% endset %}[{{ x }}]",
    "{% set x %}{% set y = 1 %}{% endset %}{{ y is defined }}", "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}",
    "{% filter upper %}a{{ 'b' }}{% endfilter %}", "{% filter replace('a', 'b') | upper %}aXa{% endfilter %}",
    "{% if 0 %}a{% elif 1 %}b{% else %}c{% endif %}", "{% if 0 %}a{% elif 0 %}b{% else %}c{% endif %}",
    "{% if missing %}a{% else %}b{% endif %}", "{% if row.missing.x is defined %}a{% endif %}",
    "{% if not (messages and messages[0].role == 'system') %}a{% else %}b{% endif %}",
    "{% macro f(a, b=2) %}{{ a }}-{{ b }}{% endmacro %}{{ f(1) }} {{ f(1, 3) }} {{ f(b=5, a=4) }}",
    "{% macro f(a) %}[{{ a }}]{% endmacro %}{{ f() }}{{ f(none) }}", "{% macro f() %} x {% endmacro %}{{ f()|trim }}",
    "{% set y = 1 %}{% macro f() %}{{ y }}{% endmacro %}{{ f() }}{% set y = 2 %}{{ f() }}",
    "{% macro f(n) %}{% if n > 0 %}{{ n }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}",
    "{% macro f(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ f(1) }}", "{%- macro f(x) -%}\n  {{ x }}\n{%- endmacro -%}\n{{ f('a') }}",
    "{% generation %}a{% endgeneration %}b", "{% for m in messages %}{% generation %}\n{{ m.content }}\n{% endgeneration %}\n{% endfor %}",
    "{{ 'a' if true }}{{ 'b' if false }}", "{{ missing }}", "{{ none }}", "{{ true }}", "{{ row.d }}", "{{ 'x' | safe }}",
    "{{ row | tojson | safe }}", "{% print 1 + 1 %}", "{{ messages[1:][0].content }}",
    "{% set m = messages %}{% set messages = m[1:] %}{{ messages|length }}",
    "{% set messages = messages[1:] %}{{ messages|length }}", "{% set row = {'a': 5} %}{{ row.a }}",
    "{% for message in messages %}{% set role = message.role %}{% if loop.first %}{% set role = 'first' %}{% endif %}{{ role }} {% endfor %}",
    "{% set loop_messages = messages[1:] if messages[0].role == 'system' else messages %}{{ loop_messages|length }}",
    "{% for a in [1, 2] %}{% set x = a %}{% for b in [1, 2] %}{% set x = x * 10 %}{{ x }} {% endfor %}{{ x }}|{% endfor %}",
    "{{ 'a' }}{% if true %}\n\n{% endif %}b", "{{ 'a\\nb' }}", "{{ \"a\" }}", "{{ 'multi\nline' }}",
    "{%if true%}x{%endif%}", "{{1}}", "{{-1}}", "{{ -1 }}", "{%- set x=1-%} {{x}}",
    "{% set x = [] %}{% for i in range(3) %}{% set x = x + [i] %}{% endfor %}{{ x }}",
    "{% set g = [1, 2]|select %}{{ g|list }}{{ g|list }}",
    "{% if true: %}x{% endif %}",
    "{% for i in range(3): %}{{ i }}{% endfor %}",
    "{{ [1, 2, 3]|map('string')|join('+') }}", "{{ messages | map(attribute='role') | unique | list | length }}",
    "{{ 'x' * 3 + 'y' }}", "{{ 'a,b'|replace(',', '\\n') }}",
]

# What Jinja refuses, and so must we.
ERRORS = [
    "{{ missing.x }}", "{{ missing + 1 }}", "{{ missing() }}", "{{ none + 1 }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ 1 // 0 }}",
    "{{ 1 < 'a' }}", "{{ 1 in 5 }}", "{{ 1 in 'a' }}", "{{ 'x'() }}", "{{ row.b.append(1) }}", "{{ row.update({}) }}", "{{ row.c.k.x.y }}",
    "{% for i in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% set a, b = 1, 2, 3 %}", "{% set row.x = 1 %}", "{{ raise_exception('no') }}", "{{ 'x' | nothing }}", "{{ 1 is nothing }}",
    "{% nothing %}", "{% endif %}", "{% if %}", "{% if true %}", "{% for %}", "{{ }}", "{{ 1 ", "{{ 'a }}", "{% raw %}", "{# a",
    "{{ (1 }}", "{{ 1) }}", "{{ [1} }}", "{{ 1 + }}", "{{ a b }}", "{{ 'a'|upper(1, 2) }}", "{{ 'a'.upper(1) }}", "{{ range(200000) }}",
    "{{ range() }}", "{{ 'a'|length(1) }}", "{{ 5|length }}", "{{ 'abc'.split('') }}", "{{ [1, 'a']|sort }}", "{{ {[1]: 2} }}",
    "{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "{% macro f(a) %}{% endmacro %}{{ f(x=2) }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% break %}", "{{ missing|tojson }}", "{{ [1, missing]|tojson }}", "{{ 'a'.startswith(1) }}", "{{ ''.join([1]) }}", "{{ 1 if }}",
    "{{ x! }}", "{{ 'a' ? }}", "{{ ''.__class__.__mro__ }}", "{{ row.__class__.x }}", "{% set x %}", "{{ 1 | }}", "{{ 1 is }}",
    "{{ -'a' }}", "{{ 'x' * 1.5 }}", "{{ row.b[0:'a'] }}", "{{ [1][::0] }}", "{% set none = 1 %}", "{{ namespace(1) }}", "{{ f(a=1, 2) }}",
]


def cases():
    for line in EXPRESSIONS.strip("\n").split("\n"):
        yield "{{ " + line + " }}"
    yield from TEMPLATES
    yield from ERRORS


GIVEN = {"messages": MESSAGES, "row": ROW, "s": "Hello", "u": "h\u00e9\U0001F600x", "e": True, "tools": None}
