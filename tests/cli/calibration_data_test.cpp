// From --data to windows of tokens, and everything that can be wrong with it.
#include "cli/calibration_data.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "cli/line_reader.h"
#include "cli/model_argument.h"
#include "engine/models/architecture.h"
#include "engine/tokenizer/token_windows.h"
#include "formats/safetensors.h"
#include "tests/support/command.h"
#include "tests/support/shared_data.h"

namespace pare::cli {
namespace {

using testing::HasSubstr;

void write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

struct Case {
  std::string model = test::source_path("samples/books-3m");
  std::string folder = test::temporary_folder();
  CalibrationDataOptions options{.samples = 3, .context = 16};

  Result<CalibrationData> load(const std::string& name, const std::string& content) {
    write(folder + "/" + name, content);
    return load(folder + "/" + name);
  }
  Result<CalibrationData> load(const std::string& path) {
    options.path = path;
    PARE_TRY(const auto source, open_source(model, {}));
    PARE_TRY(const ModelDescription description, describe_model(*source));
    return load_calibration_data(options, *source, description.config);
  }
  std::shared_ptr<const Tokenizer> tokenizer() { return *load_tokenizer(**open_source(model, {})); }
};

std::string story(int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += "It was late in the evening when the door opened. ";
  return text;
}

TEST(CalibrationData, WindowsAreCutFromOneStreamWithBosInFront) {
  Case one;
  const auto data = one.load("t.txt", story(30));
  ASSERT_TRUE(data) << format_error(data.error());
  const auto tokenizer = one.tokenizer();
  ASSERT_TRUE(tokenizer->adds_bos());
  TokenStream stream;
  stream.ids = *tokenizer->encode(story(30), {.add_special = false, .parse_special = false});
  EXPECT_EQ(data->kind, "text");
  EXPECT_EQ(data->stream_tokens, int64_t(stream.ids.size()));
  EXPECT_EQ(data->windows.token_hash, token_hash(stream.ids));
  std::vector<int32_t> expected;
  for (const TokenWindow& window : random_windows(data->stream_tokens, 16, 3, 0)) {
    for (const int32_t id : window_ids(stream, window, tokenizer->bos_id())) expected.push_back(id);
  }
  EXPECT_EQ(data->windows.ids, expected);
  one.options.bos = "never";
  EXPECT_NE(one.load(one.options.path)->windows.ids[0], *tokenizer->bos_id());
  one.options.seed = 1;
  EXPECT_NE(one.load(one.options.path)->windows.ids, expected);
}

TEST(CalibrationData, RecordsAreJoinedWithTheEndOfText) {
  Case one;
  const auto data =
      one.load("t.jsonl", "{\"text\": \"" + story(3) + "\"}\r\n\n{\"text\": \"" + story(4) + "\"}");
  ASSERT_TRUE(data) << format_error(data.error());
  const auto tokenizer = one.tokenizer();
  std::vector<int32_t> ids = *tokenizer->encode(story(3), {.add_special = false, .parse_special = false});
  if (tokenizer->eos_id()) ids.push_back(*tokenizer->eos_id());
  const std::vector<int32_t> more =
      *tokenizer->encode(story(4), {.add_special = false, .parse_special = false});
  ids.insert(ids.end(), more.begin(), more.end());
  EXPECT_EQ(data->kind, "jsonl");
  EXPECT_EQ(data->documents, 2);
  EXPECT_EQ(data->windows.token_hash, token_hash(ids));
}

TEST(CalibrationData, MessagesNeedATemplate) {
  Case one;
  const auto data = one.load("t.jsonl", R"({"messages": [{"role": "user", "content": "Hi"}]})");
  ASSERT_FALSE(data);
  EXPECT_EQ(data.error().exit, Exit::unsupported);
  EXPECT_EQ(data.error().rule, "CT15");
}

TEST(CalibrationData, MessagesAreRenderedByTheTemplateOfTheModel) {
  Case one;
  one.model = test::copy_of_sample();
  write(one.model + "/chat_template.jinja",
        "{% for m in messages %}{{ bos_token }}{{ m.role }}: {{ m.content }}\n{% endfor %}");
  const std::string said = story(5);
  const auto data = one.load("t.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"" + said +
                                            "\"}, {\"role\": \"assistant\", \"content\": \"Yes.\"}]}\n");
  ASSERT_TRUE(data) << format_error(data.error());
  EXPECT_EQ(data->kind, "messages");
  const auto tokenizer = one.tokenizer();
  const std::string bos = tokenizer->token_text(*tokenizer->bos_id());
  const auto ids = *tokenizer->encode(bos + "user: " + said + "\n" + bos + "assistant: Yes.\n",
                                      {.add_special = false, .parse_special = true});
  EXPECT_EQ(data->windows.token_hash, token_hash(ids));
  EXPECT_EQ(std::count(ids.begin(), ids.end(), *tokenizer->bos_id()), 2);

  const auto injected = one.load(
      "u.jsonl", "{\"text\": \"x\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"a" + bos + "\"}]}");
  ASSERT_FALSE(injected);
  EXPECT_EQ(injected.error().rule, "CT10");
  EXPECT_EQ(injected.error().where, "2:messages[0]");
  EXPECT_THAT(injected.error().got, HasSubstr(bos));
  for (const char* bad :
       {R"({"messages": []})", R"({"messages": 3})", R"({"messages": [{"content": "x"}]})"}) {
    EXPECT_EQ(one.load("v.jsonl", bad).error().rule, "DT03") << bad;
  }
  write(one.model + "/chat_template.jinja", "{{ raise_exception('no') }}");
  const auto refused = one.load("w.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().rule, "CT09");
  EXPECT_THAT(refused.error().where, HasSubstr("w.jsonl:1"));
}

TEST(CalibrationData, TokenFilesGiveRowsOrAStream) {
  Case one;
  Tensor rows = *Tensor::allocate(DType::i64, {4, 20});
  for (int64_t i = 0; i < 80; ++i) rows.mutable_data<int64_t>()[i] = 7 + i;
  const std::string path = one.folder + "/ids.safetensors";
  std::vector<std::pair<std::string, Tensor>> tensors = {{"input_ids", rows}};
  ASSERT_TRUE(write_safetensors(path, {}, tensors));
  const auto data = one.load(path);
  ASSERT_TRUE(data) << format_error(data.error());
  ASSERT_EQ(data->windows.ids.size(), 48u);
  for (int row = 0; row < 3; ++row) {
    for (int i = 0; i < 16; ++i) EXPECT_EQ(data->windows.ids[size_t(row * 16 + i)], 7 + row * 20 + i);
  }
  one.options.samples = 5;
  EXPECT_EQ(one.load(path).error().rule, "DT07");
  one.options = {.samples = 2, .context = 21};
  EXPECT_EQ(one.load(path).error().rule, "DT07");
  one.options.context = 16;

  tensors[0].second = rows.reshaped({80});
  ASSERT_TRUE(write_safetensors(path, {.force = true}, tensors));
  const auto stream = one.load(path);
  ASSERT_TRUE(stream);
  for (int row = 0; row < 2; ++row) {
    for (int i = 1; i < 16; ++i) {
      EXPECT_EQ(stream->windows.ids[size_t(row * 16 + i)], stream->windows.ids[size_t(row * 16)] + i);
    }
  }
  rows.mutable_data<int64_t>()[9] = 2048;  // the vocabulary has 2,048
  ASSERT_TRUE(write_safetensors(path, {.force = true}, tensors));
  EXPECT_EQ(one.load(path).error().where, "\"input_ids\"[9]");
  rows.mutable_data<int64_t>()[9] = 1;
  tensors.emplace_back("attention_mask", *Tensor::allocate(DType::i64, {80}));
  ASSERT_TRUE(write_safetensors(path, {.force = true}, tensors));
  EXPECT_EQ(one.load(path).error().exit, Exit::unsupported);
  EXPECT_EQ(one.load("raw.bin", "abcd").error().exit, Exit::unsupported);
}

TEST(CalibrationData, WhatIsWrongWithTextIsNamed) {
  Case one;
  const auto rule = [&](const char* name, const std::string& content) {
    const auto data = one.load(name, content);
    EXPECT_FALSE(data) << content;
    return data ? "" : data.error().rule + " " + data.error().where;
  };
  EXPECT_EQ(rule("a.txt", "Too short."), "DT07 tokens");
  EXPECT_EQ(rule("b.jsonl", "\n \n"), "DT01 ");
  EXPECT_EQ(rule("c.jsonl", "{\"text\": \"x\"}\n{\"text\": 3}"), "DT03 2:text");
  EXPECT_EQ(rule("d.jsonl", "{\"body\": \"x\"}"), "DT03 1:text");
  EXPECT_EQ(rule("e.jsonl", "{\"text\": \"x\", \"text\": \"y\"}").substr(0, 4), "DT02");
  EXPECT_EQ(rule("f.jsonl", "{\"text\": \"x\"}\n{\"text\": \"\xff\"}"), "DT04 2:11");
  EXPECT_EQ(rule("g.jsonl", "{\"text\": \"\\u0000\"}"), "DT04 1:text");
  EXPECT_EQ(rule("h.jsonl", "PK\x03\x04..."), "DT08 ");
}

TEST(LineReader, LinesOfAnyEndAndLength) {
  const std::string path = test::temporary_folder() + "/lines";
  const std::string longest(3 << 20, 'x');  // over several reads
  write(path,
        "\xef\xbb\xbf"
        "one\r\n\n" +
            longest + "\nlast");
  auto reader = LineReader::open(path);
  ASSERT_TRUE(reader);
  std::string line;
  for (const std::string& expected : {std::string("one"), std::string(), longest, std::string("last")}) {
    ASSERT_TRUE(*reader->next(line));
    EXPECT_EQ(line.size(), expected.size());
    EXPECT_EQ(line, expected);
  }
  EXPECT_EQ(reader->number(), 4);
  EXPECT_FALSE(*reader->next(line));
  EXPECT_FALSE(*reader->next(line));
}

TEST(CalibrationData, PartsCoverAllWindowsOnce) {
  for (const int64_t parts : {1, 2, 3, 7}) {
    int64_t next = 0;
    for (int64_t part = 0; part < parts; ++part) {
      const WindowRange range = part_range(7, part, parts);
      EXPECT_EQ(range.begin, next);
      EXPECT_GT(range.end, range.begin);
      next = range.end;
    }
    EXPECT_EQ(next, 7);
  }
}

}  // namespace
}  // namespace pare::cli
