-- Templates that want more than they may have: name → source. Seeds of scripts/fuzz_templates.lua too.
return {
  ["a loop within loops"] = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}"
    .. "{{ a }}{% endfor %}{% endfor %}{% endfor %}",
  ["a loop that writes nothing"] = "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
  ["a macro that calls itself"] = "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
  ["a macro that calls itself twice"] =
    "{% macro f(n) %}{% if n < 90 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(0) }}",
  ["a text that doubles"] = "{% set ns = namespace(s='ab') %}{% for i in range(1000) %}"
    .. "{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
  ["a text that doubles by ~"] = "{% set ns = namespace(s='ab') %}{% for i in range(1000) %}"
    .. "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
  ["a text repeated too often"] = "{{ 'a' * 1000000000000 }}",
  ["a text repeated almost too often"] = "{% for i in range(100000) %}{{ 'a' * 1000000 }}{% endfor %}",
  ["a list that doubles"] = "{% set ns = namespace(l=[1]) %}{% for i in range(1000) %}{% set ns.l = ns.l + ns.l %}"
    .. "{% endfor %}",
  ["a list repeated too often"] = "{{ [1] * 1000000000000 }}",
  ["an empty list repeated too often"] = "{{ [] * 1000000000000 }}{{ 'a' * 1000000000000 }}",
  ["a list within itself, often"] = "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}"
    .. "{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
  ["lists compared that are deep"] = "{% set ns = namespace(l=[], m=[]) %}{% for i in range(50000) %}"
    .. "{% set ns.l = [ns.l] %}{% set ns.m = [ns.m] %}{% endfor %}{{ ns.l == ns.m }}",
  ["a list of itself twice"] = "{% set ns = namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = [ns.l, ns.l] %}"
    .. "{% endfor %}{{ ns.l|tojson }}",
  ["a namespace within itself"] = "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns.x.x.x == ns }}{{ ns|tojson }}",
  ["an indent that grows"] = "{% set ns = namespace(l=1) %}{% for i in range(90) %}{% set ns.l = [ns.l, 1] %}"
    .. "{% endfor %}{% for i in range(1000) %}{{ ns.l|tojson(indent=100) }}{% endfor %}",
  ["an indent too wide"] = "{{ [1]|tojson(indent=1000000000) }}{{ 'a\\nb'|indent(1000000000000) }}",
  ["texts put between all characters"] = "{% set t = 'a' * 100000 %}{{ t.replace('', t) }}",
  ["texts put in place of each"] = "{% set t = 'a' * 100000 %}{{ t|replace('a', t) }}",
  ["texts joined by a long one"] = "{% set t = 'a' * 100000 %}{{ t.join(range(100000)|map('string')|list) }}",
  ["a long text looked for in a longer one"] = "{% set t = 'a' * 10000000 %}{% set s = 'a' * 1000000 + 'b' %}"
    .. "{% for i in range(100000) %}{% if s in t %}{% endif %}{% endfor %}",
  ["a long text counted in a longer one"] = "{% set t = 'a' * 1000000 %}{% for i in range(100000) %}"
    .. "{{ t.count('a') }}{{ t.rfind('b') }}{{ t.split('a')|length }}{% endfor %}",
  ["a text stripped again and again"] = "{% set t = ' ' * 10000000 %}{% for i in range(100000) %}{{ t.strip() }}"
    .. "{{ t|trim }}{{ t.lstrip('x') }}{% endfor %}",
  ["a sort of long equal texts"] = "{% set t = 'a' * 100000 %}{{ ([t + 'x'] * 1000)|sort|length }}"
    .. "{{ ([t] * 100000)|sort|length }}",
  ["long texts compared"] = "{% set t = 'a' * 5000000 %}{% set u = t + 'x' %}{% set v = t + 'y' %}"
    .. "{% for i in range(100000) %}{{ u < v }}{% endfor %}",
  ["a number beyond all bounds"] = "{{ 10 ** 10 ** 10 }}{{ 9223372036854775807 + 1 }}",
  ["a number that grows"] = "{% set ns = namespace(n=3) %}{% for i in range(100000) %}{% set ns.n = ns.n * ns.n %}"
    .. "{% endfor %}",
  ["a range too long"] = "{{ range(1000000000000) }}",
  ["a range of ranges"] = "{{ range(100000)|map('string')|map('list')|map('join')|list|length }}"
    .. "{% for i in range(100000) %}{{ range(100000)|list|length }}{% endfor %}",
  ["many ranges kept"] = "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}"
    .. "{% set ns.l = ns.l + [range(100000)] %}{% endfor %}",
  ["many macros kept"] = "{% set ns = namespace(l=0) %}{% for i in range(100000) %}{% for j in range(100000) %}"
    .. "{% macro f(a, b) %}{% endmacro %}{% set ns.l = (ns.l, f) %}{% endfor %}{% endfor %}",
  ["many names kept"] = "{% set ns = namespace(d={}) %}{% for i in range(100000) %}"
    .. "{% set ns.d = dict(ns.d, x=i, y=ns.d) %}{% endfor %}{{ ns.d }}",
  ["a text turned and cut without end"] = "{% set t = 'é' * 1000000 %}{% for i in range(100000) %}{{ t[::-1][5] }}"
    .. "{{ t|length }}{{ t[999999] }}{% endfor %}",
  ["parentheses too deep"] = "{{ " .. ("("):rep(20000) .. "1" .. (")"):rep(20000) .. " }}",
  ["lists too deep"] = "{{ " .. ("["):rep(20000) .. " }}",
  ["signs too deep"] = "{{ " .. ("-"):rep(20000) .. "1 }}",
  ["nots too deep"] = "{{ " .. ("not "):rep(20000) .. "1 }}",
  ["ternaries too deep"] = "{{ " .. ("1 if 0 else "):rep(10000) .. "1 }}",
  ["conditions too deep"] = ("{% if 1 %}"):rep(10000),
  ["loops too deep"] = ("{% for i in [1] %}"):rep(10000),
  ["targets too deep"] = "{% set " .. ("("):rep(10000) .. "a" .. (")"):rep(10000) .. " = 1 %}",
  ["a sum too long"] = "{{ 1" .. (" + 1"):rep(20000) .. " }}",
  ["filters too many"] = "{{ 1" .. ("|string"):rep(20000) .. " }}",
  ["subscripts too many"] = "{{ row" .. (".a"):rep(20000) .. " }}",
  ["powers too many"] = "{{ 1" .. (" ** 1"):rep(20000) .. " }}",
  ["comparisons too many"] = "{{ 1" .. (" == 1"):rep(20000) .. " }}",
  ["elifs too many"] = "{% if 0 %}" .. ("{% elif 0 %}"):rep(10000) .. "{% endif %}",
  ["a template too long"] = ("x"):rep((1 << 20) + 1),
  ["a string that does not end"] = "{{ '" .. ("a"):rep(20000),
  ["a comment that does not end"] = ("{#"):rep(10000),
  ["tags that do not end"] = ("{% if "):rep(10000),
  ["raw that does not end"] = ("{% raw %}"):rep(10000),
  ["blanks before tags"] = (" "):rep(100000) .. "{%- if 1 -%}" .. (" "):rep(100000) .. "{%- endif -%}",
  ["times of long formats"] = "{{ strftime_now('%c' * 100000) }}",
  ["a module's door"] = "{{ ''.__class__.__mro__[1].__subclasses__() }}",
  ["a function's door"] = "{{ range.__globals__ }}{{ namespace.__init__.__globals__.os }}",
  ["what Lua has"] = "{{ os.exit() }}{{ io }}{{ require('os') }}{{ _G }}{{ string.rep('a', 9) }}",
  ["floods of text"] = "{% for i in range(100000) %}{% for j in range(100000) %}" .. ("a"):rep(40)
    .. "{% endfor %}{% endfor %}",
  ["floods within a block"] = "{% set x %}{% for i in range(100000) %}{% for j in range(100000) %}" .. ("a"):rep(40)
    .. "{% endfor %}{% endfor %}{% endset %}",
}
