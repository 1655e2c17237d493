// Made with jinja2 3.1 in the environment that Hugging Face renders chat templates in (trim_blocks, lstrip_blocks, loop
// controls, tojson without escapes). The templates are our own, in the shapes that published models use.
// clang-format off
#include "tests/engine/tokenizer/chat_template_cases.h"

namespace pare::test {

const char* const kTemplateVariables = R"~({"messages": [{"role": "system", "content": "  Be brief. "}, {"role": "user", "content": "Hi \"there\" – 你好\n"}, {"role": "assistant", "content": "Hello!"}, {"role": "user", "content": "2 < 3 & 4?"}], "tools": [{"type": "function", "function": {"name": "add", "description": "Adds \"two\" numbers", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}], "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "x": 7, "y": -2.5, "s": "Straße one two", "n": null, "flag": false, "items": [3, 1, 2], "names": [{"name": "b", "v": 2}, {"name": "A", "v": 1}, {"name": "c"}]})~";

const std::vector<TemplateCase>& template_cases() {
  static const std::vector<TemplateCase> cases = {
      {"chatml",
       R"~({% for m in messages %}
    {%- if loop.first and m.role != 'system' %}
{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}
    {%- endif %}
{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\n' }}
{% endif %}
)~",
       R"~(<|im_start|>system
  Be brief. <|im_end|>
<|im_start|>user
Hi "there" – 你好
<|im_end|>
<|im_start|>assistant
Hello!<|im_end|>
<|im_start|>user
2 < 3 & 4?<|im_end|>
<|im_start|>assistant

)~"},
      {"header style",
       R"~({{- bos_token }}
{%- set ns = namespace(sys='', first=true) %}
{%- if messages[0]['role'] == 'system' %}
    {%- set ns.sys = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set ns.sys = "" %}
{%- endif %}
{#- the system text comes first -#}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" }}
{%- if tools is not none %}
    {{- "Environment: tools\n" }}
{%- endif %}
{{- "Today: " + strftime_now("%d %b %Y") + "\n" }}
{%- if tools is not none and not flag %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\n\n" }}
    {%- endfor %}
{%- endif %}
{{- ns.sys }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {{- raise_exception("no tools") }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
)~",
       R"~(<s><|start_header_id|>system<|end_header_id|>

Environment: tools
Today: 06 Jul 2024
{
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds \"two\" numbers",
        "parameters": {
            "type": "object",
            "properties": {
                "a": {
                    "type": "number"
                },
                "b": {
                    "type": "integer"
                }
            },
            "required": [
                "a",
                "b"
            ]
        }
    }
}

Be brief.<|eot_id|><|start_header_id|>user<|end_header_id|>

Hi "there" – 你好<|eot_id|><|start_header_id|>assistant<|end_header_id|>

Hello!<|eot_id|><|start_header_id|>user<|end_header_id|>

2 < 3 & 4?<|eot_id|><|start_header_id|>assistant<|end_header_id|>

)~"},
      {"inst style",
       R"~({{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set sys = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set sys = false %}{% endif %}{% for message in loop_messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if loop.index0 == 0 and sys != false %}{% set content = '<<SYS>>\n' + sys + '\n<</SYS>>\n\n' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + content.strip() + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %})~",
       R"~(<s>[INST] <<SYS>>
  Be brief. 
<</SYS>>

Hi "there" – 你好 [/INST] Hello! </s>[INST] 2 < 3 & 4? [/INST])~"},
      {"bar style",
       R"~({% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %})~",
       R"~(<|system|>
  Be brief. </s>
<|user|>
Hi "there" – 你好
</s>
<|assistant|>
Hello!</s>
<|user|>
2 < 3 & 4?</s>
<|assistant|>
)~"},
      {"macro and tools",
       R"~({%- macro render(props, depth=1) -%}
  {%- for k, v in props.items() -%}
    {{ '  ' * depth }}{{ k }}: {{ v.type }}{% if not loop.last %},{{ "\n" }}{% endif %}
  {%- endfor -%}
{%- endmacro -%}
{%- for t in tools %}
{{ t.function.name }}({{ render(t.function.parameters.properties, depth=2) }}) {{ t.function.parameters.required | join(', ') }}
{%- endfor %}
{{ render({'q': {'type': 'string'}}) }})~",
       R"~(add(    a: number,
    b: integer) a, b  q: string)~"},
      {"text methods",
       R"~({{ s.upper() }}|{{ s.lower() }}|{{ s.title() }}|{{ s.split() }}|{{ s.split('o') }}|{{ s.split(' ', 1) }}|{{ s.rsplit(' ', 1) }}|{{ s.startswith('Str') }}|{{ s.endswith(('x', 'two')) }}|{{ s.replace('e', '3', 1) }}|{{ s.find('one') }}|{{ s.count('e') }}|{{ ' a b '.strip() }}|{{ 'xxaxx'.strip('x') }}|{{ 'xxa'.lstrip('x') }}|{{ 'axx'.rstrip('x') }}|{{ '-'.join(['a', 'b']) }}|{{ 'a\nb\r\nc'.splitlines() }}|{{ '12'.isdigit() }}|{{ 'abc'.capitalize() }}|{{ 'foobar'.removeprefix('foo') }}|{{ 'foobar'.removesuffix('bar') }}|{{ s.rfind('o') }}|{{ s[3] }}{{ s[-1] }}|{{ s[1:6:2] }}|{{ s[::-1] }}|{{ ' a  b c '.rsplit(none, 1) }})~",
       R"~(STRASSE ONE TWO|straße one two|Straße One Two|['Straße', 'one', 'two']|['Straße ', 'ne tw', '']|['Straße', 'one two']|['Straße one', 'two']|True|True|Straß3 one two|7|2|a b|a|a|a|a-b|['a', 'b', 'c']|True|Abc|bar|foo|13|ao|tae|owt eno eßartS|[' a  b', 'c'])~"},
      {"filters",
       R"~({{ items|sort }}{{ items|sort(reverse=true)|list }}{{ items|first }}{{ items|last }}{{ items|length }}{{ items|sum }}{{ items|max }}{{ items|min }}{{ items|join('-') }}{{ names|map(attribute='name')|list }}{{ names|map(attribute='v', default=0)|list }}{{ names|selectattr('v')|map(attribute='name')|join(',') }}{{ names|selectattr('v', 'equalto', 2)|list }}{{ names|rejectattr('v', 'defined')|list }}{{ names|sort(attribute='name')|map(attribute='name')|list }}{{ items|select('odd')|list }}{{ items|reject('odd')|list }}{{ items|map('string')|list }}{{ missing|default('d') }}{{ ''|default('e', true) }}{{ n|default('z') }}{{ 'a-b (c'|title }}{{ '3.7'|int }}{{ 'q'|int(5) }}{{ '2.5'|float }}{{ y|abs }}{{ 3.14159|round(2) }}{{ 7|string ~ 'x' }}{{ 'abc'|reverse }}{{ [1,1,2]|unique|list }}{{ {'b':1,'a':2}|dictsort }}{{ {'b':1}|items|list }}{{ 'a\nb'|indent(2) }}{{ 'a\n\nb'|indent(2, true) }}{{ 'x'|upper }}{{ 'aXb'|replace('X','-') }}{{ missing|length }}{{ [3, 'a', none, true, 1.5, {'k': 'v'}, (1,)] }})~",
       R"~([1, 2, 3][3, 2, 1]3236313-1-2['b', 'A', 'c'][2, 1, 0]b,A[{'name': 'b', 'v': 2}][{'name': 'c'}]['A', 'b', 'c'][3, 1][2]['3', '1', '2']deNoneA-B (C352.52.53.147xcba[1, 2][('a', 2), ('b', 1)][('b', 1)]a
  b  a

  bXa-b0[3, 'a', None, True, 1.5, {'k': 'v'}, (1,)])~"},
      {"tests",
       R"~({{ x is defined }}{{ q is defined }}{{ q is undefined }}{{ n is none }}{{ n is not none }}{{ x is number }}{{ x is integer }}{{ y is float }}{{ s is string }}{{ tools is iterable }}{{ tools is sequence }}{{ tools[0] is mapping }}{{ tools is mapping }}{{ flag is boolean }}{{ flag is false }}{{ x is odd }}{{ x is divisibleby 7 }}{{ x is divisibleby(2) }}{{ 'a' is in 'abc' }}{{ x is eq 7 }}{{ x is gt 3 }}{{ 'ABC' is upper }}{{ raise_exception is defined }}{{ q is string }})~",
       R"~(TrueFalseTrueTrueFalseTrueTrueTrueTrueTrueTrueTrueFalseTrueTrueTrueTrueFalseTrueTrueTrueTrueTrueFalse)~"},
      {"arithmetic",
       R"~({{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 6 / 3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 1e3 }} {{ 1_000 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1.5e-7 }} {{ -x }} {{ +x }} {{ x + y }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 'ab' * 3 }} {{ [1] * 2 + [2] }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ 'a' < 'b' }} {{ 2 in items }} {{ 9 not in items }} {{ 'one' in s }} {{ not true or true and false }} {{ 1 if x > 3 else 2 }} {{ 'no' if flag }} {{ x ~ y ~ n }} {{ (1, 2)[0] }} {{ [1,2,3,4][-3:-1] }} {{ 2 * 3 + 4 * 5 - 6 }} {{ 10 - 2 - 3 }} {{ -2 ** 2 }} {{ 'a' 'b' }} {{ true + 1 }} {{ [1,2] == [1,2] }} {{ {'a':1} == {'a':1} }} {{ -5|abs }})~",
       R"~(3 -4 2 -2 3.5 2.0 1024 0.5 1000.0 1000 0.30000000000000004 1e+16 1.5e-07 -7 7 4.5 3.0 0.5 ababab [1, 1, 2] True False True True True True True False 1  7-2.5None 1 [2, 3] 20 5 4 ab 2 True True 5)~"},
      {"loops",
       R"~({% for i in range(5) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}
{% for a, b in [(1, 2), (3, 4)] %}{{ loop.index }}/{{ loop.length }}:{{ a }}{{ b }}{{ loop.cycle('p', 'q') }}{{ loop.revindex0 }}{% if not loop.last %},{% endif %}{% endfor %}
{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ loop.first }}{{ loop.last }}{{ m.content[:2] }};{% endfor %}
{% for k in {'z': 1, 'y': 2} %}{{ k }}{% endfor %}{% for c in 'añb' %}[{{ c }}]{% endfor %}
{% for i in range(3) %}{{ loop.previtem if loop.previtem is defined else '-' }}<{{ i }}>{{ loop.nextitem if loop.nextitem is defined else '-' }}{% endfor %}
{% set outer = 1 %}{% for i in range(2) %}{% set outer = 5 %}{{ outer }}{% endfor %}{{ outer }}
{% for i in range(10, 0, -3) %}{{ i }} {% endfor %}{% for i in range(2) %}{% for j in range(2) %}{{ loop.depth }}{% endfor %}{% endfor %})~",
       R"~(023empty1/2:12p1,2/2:34q01TrueFalseHi;2FalseTrue2 ;zy[a][ñ][b]-<0>10<1>21<2>-551
10 7 4 1 1111)~"},
      {"white space",
       R"~(  {% if true %}
  a
    {%- if true -%}
   b
  {%- endif %}

  {{ 'c' }}   
  {%+ if true %} d {% endif +%}
  {# comment #}
e {# inline #} f
{%- raw %} {{ kept }} {% also %} {% endraw -%}
   g
{% endif %}
h
)~",
       R"~(  ab
  c   
   d 
e  f {{ kept }} {% also %} g
h)~"},
      {"set block and generation",
       R"~({% set text %}
one {{ x }}
{% endset %}[{{ text }}]{% generation %}said {{ x }}{% endgeneration %}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set d = dict(a=1, b='x') %}{{ d }}{{ d.get('q', 'none') }}{{ d.get('a') }}{{ d.keys()|list }}{{ d.values()|list }})~",
       R"~([one 7
]said 712{'a': 1, 'b': 'x'}none1['a', 'b'][1, 'x'])~"},
      {"json",
       R"~({{ tools|tojson }}
{{ {'b': [1, 2.5, none, true], 'a': 'é"\\\n'}|tojson(sort_keys=true) }}
{{ {'a': {'b': []}, 'c': [1]}|tojson(indent=2) }}
{{ [1, 2]|tojson(separators=(',', ':')) }})~",
       R"~([{"type": "function", "function": {"name": "add", "description": "Adds \"two\" numbers", "parameters": {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "integer"}}, "required": ["a", "b"]}}}]
{"a": "é\"\\\n", "b": [1, 2.5, null, true]}
{
  "a": {
    "b": []
  },
  "c": [
    1
  ]
}
[1,2])~"},
      {"strings",
       R"~({{ 'it\'s' }}{{ "a\tb" }}{{ '\x41\u00e9\101' }}{{ ["it's", 'q"q', 'both\'"', 'l\n'] }}{{ '}}' }}{{ {'a': {'b': 1}}['a'].b }}{{ '%}' }}{{ "{{" }})~",
       R"~(it'sa	bAéA["it's", 'q"q', 'both\'"', 'l\n']}}1%}{{)~"},
      {"date",
       R"~({{ strftime_now('%Y-%m-%d %H:%M:%S %A %a %B %b %y %j %I %p %%') }})~",
       R"~(2024-07-06 09:05:03 Saturday Sat July Jul 24 188 09 AM %)~"},
      {"line ends",
       "a\r\n{% if true %}\r\nb\r{% endif %}\r\nc\r\n",
       R"~(a
b
c)~"},
  };
  return cases;
}

}  // namespace pare::test
