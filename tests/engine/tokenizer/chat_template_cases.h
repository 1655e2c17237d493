// tests/engine/tokenizer/chat_template_cases.h: templates and what the reference implementation makes of
// them.
#pragma once

#include <vector>

namespace pare::test {

struct TemplateCase {
  const char* name;
  const char* source;
  const char* expected;
};
extern const char* const kTemplateVariables;  // JSON, for all cases
const std::vector<TemplateCase>& template_cases();

}  // namespace pare::test
