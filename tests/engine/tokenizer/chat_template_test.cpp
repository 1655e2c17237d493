#include "engine/tokenizer/chat_template.h"

#include <gtest/gtest.h>

#include "engine/core/limits.h"
#include "tests/engine/tokenizer/chat_template_cases.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

Json variables() {
  return *parse_json(kTemplateVariables, "variables", {.max_bytes = 1 << 20});
}

Result<std::string> render(std::string_view source, const Json& data = variables(),
                           RenderOptions options = {}) {
  PARE_TRY(const auto parsed, ChatTemplate::parse(source, "t.jinja"));
  return parsed->render(data, options);
}

Error error_of(std::string_view source) {
  const auto result = render(source);
  EXPECT_FALSE(result) << source << " gives " << *result;
  return result ? Error{} : result.error();
}

TEST(ChatTemplate, RendersAsTheReference) {
  for (const TemplateCase& one : template_cases()) {
    const auto text = render(one.source, variables(), {.now = "2024-07-06T09:05:03"});
    ASSERT_TRUE(text) << one.name << ": " << text.error().where << " " << text.error().what << " "
                      << text.error().got;
    EXPECT_EQ(*text, one.expected) << one.name;
  }
}

TEST(ChatTemplate, SyntaxErrorsNameTheirPlace) {
  for (const auto& [source, where] : {std::pair{"{{ a b }}", "1:6"},
                                      {"\n{% if x %}\n", "2:11"},
                                      {"{{ (1 }}", "1:7"},
                                      {"{% for in x %}{% endfor %}", "1:8"},
                                      {"{{ 'open }}", "1:4"},
                                      {"{% endif %}", "1:1"},
                                      {"{# open", "1:1"},
                                      {"{{ ] }}", "1:4"},
                                      {"{% set 3 = x %}", "1:8"},
                                      {"{% break %}", "1:1"},
                                      {"{{ '\\u12' }}", "1:4"},
                                      {"{% raw %}", "1:10"},
                                      {"{{ 1x }}", "1:4"},
                                      {"{{", "1:3"}}) {
    const Error error = error_of(source);
    EXPECT_EQ(error.rule, "CT03") << source;
    EXPECT_EQ(error.exit, Exit::malformed) << source;
    EXPECT_EQ(error.where, where) << source << ": " << error.what;
    EXPECT_EQ(error.path, "t.jinja");
  }
}

TEST(ChatTemplate, WhatIsNotThereIsRefused) {
  for (const auto& [source, got] : {std::pair{"{% include 'x' %}", "\"include\""},
                                    {"{% import 'x' as y %}", "\"import\""},
                                    {"{% extends 'x' %}", "\"extends\""},
                                    {"{% block a %}{% endblock %}", "\"block\""},
                                    {"{% do x %}", "\"do\""},
                                    {"{{ x|attr('y') }}", "\"attr\""},
                                    {"{{ x is sameas 1 }}", "\"sameas\""},
                                    {"{{ lipsum() }}", "\"lipsum\""},
                                    {"{{ cycler(1) }}", "\"cycler\""},
                                    {"{{ open('/etc/passwd') }}", "\"open\""}}) {
    const Error error = error_of(source);
    EXPECT_EQ(error.rule, "CT04") << source;
    EXPECT_EQ(error.exit, Exit::unsupported) << source;
    EXPECT_EQ(error.got, got) << source;
    EXPECT_FALSE(error.where.empty());
  }
}

TEST(ChatTemplate, AttributesAreDataOnly) {
  for (const char* source :
       {"{{ ''.__class__ }}", "{{ messages.__class__ }}", "{{ messages[0].__globals__ }}", "{{ s.format }}",
        "{{ s.encode() }}", "{{ ''['__class__'] }}", "{{ items.append(3) }}", "{{ messages[0].pop('role') }}",
        "{{ x.real }}", "{{ loop.__init__ }}{% for i in [1] %}{% endfor %}",
        "{% for i in [1] %}{{ loop.changed(i) }}{% endfor %}", "{{ s.__len__() }}",
        "{{ raise_exception.__globals__ }}", "{{ names|map(attribute='__class__')|list }}"}) {
    const Error error = error_of(source);
    if (std::string_view(source).starts_with("{{ loop")) continue;  // undefined there
    // pop of a map is a missing entry that is called
    EXPECT_TRUE(error.rule == "CT05" || error.rule == "CT04") << source << ": " << error.rule << error.what;
    EXPECT_EQ(error.exit, Exit::unsupported) << source;
  }
}

TEST(ChatTemplate, NothingRunsAway) {
  std::string brackets(100'000, '('), blocks, lists = "{{ ", nots = "{{ ";
  for (int i = 0; i < 100'000; ++i) blocks += "{% if x %}";
  for (int i = 0; i < 100'000; ++i) lists += "[", nots += "not ";
  const std::string deep_value =
      "{% set ns = namespace(a=[]) %}{% for i in range(1000) %}{% set ns.a = [ns.a] %}{% endfor %}{{ ns.a }}";
  const std::string wide_value =
      "{% set ns = namespace(a='x') %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ "
      "ns.a }}";
  for (const auto& [source, rule] :
       {std::pair<std::string, const char*>{"{% for i in range(10**9) %}{% endfor %}", "CT06"},
        {"{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "CT08"},
        {"{% for i in range(1000) %}{% for j in range(1000) %}{{ i + j }}{% endfor %}{% endfor %}", "CT06"},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "CT07"},
        {"{{ " + brackets, "CT07"},
        {lists, "CT07"},
        {nots + "x }}", "CT07"},
        {blocks, "CT07"},
        {deep_value, "CT07"},
        {wide_value, "CT08"},
        {"{{ 'x' * 10**8 }}", "CT08"},
        {"{{ [1] * 10**8 }}", "CT08"},
        {"{% set ns = namespace(a='x') %}{% for i in range(100) %}{% set ns.a = ns.a + ns.a %}{% endfor %}",
         "CT08"},
        {"{{ ('x' * 4000000).replace('x', 'yyyyyyyyyy') }}", "CT08"},
        {"{{ range(1000000)|join('0123456789012345678901234567890') }}", "CT08"},
        {"{% for i in range(400) %}{{ 'x' * 100000 }}{% endfor %}", "CT08"},
        {"{% set ns = namespace(a=[]) %}{% for i in range(100) %}{% set ns.a = ns.a + ['x' * 9000000] %}{% "
         "endfor %}",
         "CT08"}}) {
    const Error error = error_of(source);
    EXPECT_EQ(error.rule, rule) << source.substr(0, 80) << ": " << error.what;
    EXPECT_EQ(error.exit, Exit::resource) << source.substr(0, 80);
    EXPECT_FALSE(error.where.empty());
    EXPECT_FALSE(error.limit.empty());
  }
}

TEST(ChatTemplate, LongChainsAreNotDeep) {
  std::string sum = "{{ 1", text = "{{ 'a'", tests = "{% if x == 0 %}";
  for (int i = 0; i < 5000; ++i) sum += " + 1", text += " ~ 'b'|upper";
  for (int i = 0; i < 2000; ++i) tests += "{% elif x == 100 %}";
  EXPECT_EQ(*render(sum + " }}"), "5001");
  EXPECT_EQ(render(text + " }}")->size(), 5001u);
  EXPECT_EQ(*render(tests + "{% else %}end{% endif %}"), "end");
}

TEST(ChatTemplate, TheTemplatesOwnRefusal) {
  const Error error = error_of("\n  {{ raise_exception('roles must\x1b[2J alternate') }}");
  EXPECT_EQ(error.rule, "CT09");
  EXPECT_EQ(error.exit, Exit::malformed);
  EXPECT_EQ(error.where, "2:21");
  EXPECT_EQ(error.what, "the template refuses: roles must\\x1b[2J alternate");
}

TEST(ChatTemplate, ArithmeticThatHasNoAnswer) {
  for (const char* source :
       {"{{ 9223372036854775807 + 1 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ 1 / 0 }}", "{{ 1.5 % 0 }}",
        "{{ s[::0] }}", "{{ items[3] }}", "{{ items[-4] }}", "{{ s[99] }}", "{{ 99999999999999999999 }}",
        "{{ range(1, 2, 0) }}", "{{ 2 ** 64 }}", "{{ (-9223372036854775807 - 1) // -1 }}",
        "{{ (-9223372036854775807 - 1)|abs }}", "{{ ''.split('') }}", "{{ 5 is divisibleby 0 }}",
        "{{ -(-9223372036854775807 - 1) }}"}) {
    const Error error = error_of(source);
    EXPECT_EQ(error.rule, "CT12") << source << error.what;
    EXPECT_EQ(error.exit, Exit::malformed) << source;
  }
}

TEST(ChatTemplate, WrongValuesAreNamed) {
  for (const char* source :
       {"{{ q.name }}", "{{ q + 1 }}", "{{ 'a' + 1 }}", "{{ 1 < 'a' }}", "{{ 5|length }}",
        "{% for i in 5 %}{% endfor %}", "{% for a, b in [1] %}{% endfor %}", "{% set x.y = 1 %}", "{{ x() }}",
        "{{ none|tojson|upper|abs }}", "{{ [q]|tojson }}", "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}",
        "{% macro m(a) %}{% endmacro %}{{ m(b=2) }}", "{{ 3 in 'abc' }}", "{{ ','.join([1]) }}",
        "{{ [1, 'a']|sort }}", "{{ {'a': 1}|sum }}"}) {
    const Error error = error_of(source);
    EXPECT_EQ(error.rule, "CT13") << source << ": " << error.what;
    EXPECT_EQ(error.exit, Exit::malformed) << source;
  }
}

TEST(ChatTemplate, TheDateComesFromTheCaller) {
  const auto without = render("{{ strftime_now('%Y') }}");
  ASSERT_FALSE(without);
  EXPECT_EQ(without.error().exit, Exit::usage);
  EXPECT_EQ(without.error().rule, "CT14");
  EXPECT_EQ(*render("{{ strftime_now('%-d %B %Y, %A') }}", variables(), {.now = "2024-02-29"}),
            "29 February 2024, Thursday");
  for (const char* bad :
       {"2023-02-29", "2024-13-01", "24-01-01", "2024-01-01 10:00", "2024-01-01T25:00:00", "today", ""}) {
    EXPECT_EQ(render("x", variables(), {.now = bad}).error().exit, Exit::usage) << bad;
  }
  EXPECT_EQ(render("{{ strftime_now('%Z') }}", variables(), {.now = "2024-02-29"}).error().rule, "CT04");
}

TEST(ChatTemplate, SourcesThatCannotBe) {
  EXPECT_EQ(error_of("a\xff").rule, "CT02");
  EXPECT_EQ(error_of(std::string(limits::kTemplateBytes + 1, 'x')).rule, "TK18");
}

TEST(ChatTemplate, IsFoundByName) {
  ChatTemplateFiles files;
  files.tokenizer_config_path = "m/tokenizer_config.json";
  files.chat_template_path = "m/chat_template.jinja";
  EXPECT_FALSE(chat_template_source(files)->has_value());
  files.tokenizer_config_json =
      R"({"chat_template": "one", "bos_token": {"content": "<s>"}, "eos_token": "</s>"})";
  EXPECT_EQ((*chat_template_source(files))->text, "one");
  EXPECT_EQ(template_tokens(*files.tokenizer_config_json, "p")->dump(),
            R"({"bos_token":"<s>","eos_token":"</s>"})");
  const auto missing = chat_template_source(files, "tool_use");
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().rule, "CT11");
  EXPECT_EQ(missing.error().limit, "default");
  files.tokenizer_config_json =
      R"({"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]})";
  EXPECT_EQ((*chat_template_source(files, "tool_use"))->text, "t");
  EXPECT_EQ(chat_template_source(files, "rag").error().limit, "default, tool_use");
  files.chat_template_jinja = "file";
  EXPECT_EQ((*chat_template_source(files))->text, "file");
}

}  // namespace
}  // namespace pare::test
