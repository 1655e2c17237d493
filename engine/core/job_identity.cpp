#include "engine/core/job_identity.h"

#include <algorithm>
#include <map>

#include "engine/core/text.h"

namespace pare {
namespace {

using Leaves = std::vector<std::pair<std::string, std::string>>;

// Names with a dot or another unusual character are quoted, so that a path reads in one way only.
std::string member_path(const std::string& parent, const std::string& key) {
  const auto is_plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
  };
  if (key.empty() || !std::all_of(key.begin(), key.end(), is_plain)) return parent + "[" + quote(key) + "]";
  return parent.empty() ? key : parent + "." + key;
}

bool is_hash(std::string_view text) {
  return text.size() >= 32 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
         });
}

// Hashes bare, other texts quoted; numbers and words are what they are.
std::string shown(const std::string& value) {
  if (!value.starts_with('"')) return value;
  const auto text = parse_json(value, "", {.max_bytes = value.size(), .want_object = false});
  if (!text || !text->is_string()) return quote(value);
  return is_hash(text->as_string()) ? text->as_string() : quote(text->as_string());
}

const std::string* find_leaf(const std::map<std::string, const std::string*>& leaves,
                             const std::string& path) {
  const auto found = leaves.find(path);
  return found == leaves.end() ? nullptr : found->second;
}

std::map<std::string, const std::string*> index_leaves(const Leaves& leaves) {
  std::map<std::string, const std::string*> index;
  for (const auto& leaf : leaves) index.emplace(leaf.first, &leaf.second);
  return index;
}

}  // namespace

Leaves flatten_json(const Json& value) {
  Leaves leaves;
  std::vector<std::pair<std::string, const Json*>> open = {{std::string(), &value}};  // last one is next
  while (!open.empty()) {
    const auto [path, json] = std::move(open.back());
    open.pop_back();
    if (json->is_object() && json->size() > 0) {
      const Json::Object& members = json->members();
      for (auto member = members.rbegin(); member != members.rend(); ++member)
        open.emplace_back(member_path(path, member->first), &member->second);
    } else if (json->is_array() && json->size() > 0) {
      for (size_t i = json->size(); i-- > 0;)
        open.emplace_back(path + "[" + std::to_string(i) + "]", &json->items()[i]);
    } else {
      leaves.emplace_back(path, json->dump());
    }
  }
  return leaves;
}

Error identity_error(const std::string& path, const std::string& field, const std::string& now,
                     const std::string& before) {
  return Error{
      Exit::locked,  "",        path, "identity: " + field, "differs from the interrupted job", shown(now),
      shown(before), "expected"};
}

Status compare_identities(const Json& now, const Json& before, const std::string& path) {
  const Leaves new_leaves = flatten_json(now), old_leaves = flatten_json(before);
  const auto new_index = index_leaves(new_leaves), old_index = index_leaves(old_leaves);
  size_t differs = 0, gone = 0;
  for (; differs < new_leaves.size(); ++differs) {
    const std::string* value = find_leaf(old_index, new_leaves[differs].first);
    if (value == nullptr || *value != new_leaves[differs].second) break;
  }
  while (gone < old_leaves.size() && find_leaf(new_index, old_leaves[gone].first) != nullptr) ++gone;

  // Of a leaf that changed and one that is gone the earlier counts; in the same place it is the one that is
  // gone, which moved the others: the shorter list of inputs, not the seed behind it.
  const bool is_gone = gone < old_leaves.size(), is_different = differs < new_leaves.size();
  if (is_gone && (!is_different || gone <= differs)) {
    return identity_error(path, old_leaves[gone].first, "nothing", old_leaves[gone].second);
  }
  if (!is_different) return {};
  const auto& [field, value] = new_leaves[differs];
  const std::string* old_value = find_leaf(old_index, field);
  return identity_error(path, field, value, old_value != nullptr ? *old_value : "nothing");
}

}  // namespace pare
