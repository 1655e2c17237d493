// The page of `pare report` in a real browser: headless Chromium, without a network. PARE_SLOW_TESTS=1 runs
// it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fstream>

#include "engine/core/json.h"
#include "tests/support/command.h"
#include "tests/support/markup.h"
#include "tests/support/shared_data.h"

namespace pare::test {
namespace {

using testing::HasSubstr;

std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(in), {});
}

void write_file(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::string browser() {
  for (const char* name : {"chromium", "chromium-browser", "google-chrome"}) {
    if (std::system((std::string("command -v ") + name + " > /dev/null 2>&1").c_str()) == 0) return name;
  }
  return {};
}

struct Visit {
  std::string dom;                    // after loading
  std::vector<std::string> requests;  // addresses beyond this machine that were asked for
};

// What loading a file gives. No name resolves, and every request is in the browser's own log.
Visit visit(const std::string& page, const std::string& folder) {
  const std::string log = folder + "/net.json", dom = folder + "/dom.html";
  const std::string line =
      browser() +
      " --headless=new --no-sandbox --disable-gpu --hide-scrollbars --no-first-run --disable-sync" +
      " --disable-background-networking --disable-component-update --disable-default-apps" +
      " --host-resolver-rules='MAP * ~NOTFOUND' --user-data-dir='" + folder + "/profile' --log-net-log='" +
      log + "' --dump-dom 'file://" + page + "' > '" + dom + "' 2> '" + folder + "/browser.txt'";
  const int status = std::system(line.c_str());
  EXPECT_EQ(WEXITSTATUS(status), 0) << line << "\n" << read_file(folder + "/browser.txt");
  Visit result{.dom = read_file(dom), .requests = {}};
  const std::string events = read_file(log);
  EXPECT_THAT(events, HasSubstr("file://"));  // it is a log, and it knows about the page
  for (size_t at = events.find("\"url\":\""); at != std::string::npos;
       at = events.find("\"url\":\"", at + 1)) {
    const std::string url = events.substr(at + 7, events.find('"', at + 7) - at - 7);
    // The browser asks its makers for things on its own account.
    const bool is_own = url.find(".google.com/") != std::string::npos ||
                        url.find(".googleapis.com/") != std::string::npos ||
                        url.find(".gvt1.com/") != std::string::npos;
    if ((url.starts_with("http") || url.starts_with("ws")) && !is_own) result.requests.push_back(url);
  }
  return result;
}

// The page as it is, in a frame of a width in CSS pixels; the title says what a script measures in it.
std::string framed(const std::string& page, int width) {
  std::string quoted;
  for (const char c : page) {
    if (c == '&') {
      quoted += "&amp;";
    } else if (c == '"') {
      quoted += "&quot;";
    } else {
      quoted += c;
    }
  }
  return "<!DOCTYPE html><html><head><title>none</title></head><body><iframe id=\"f\" width=\"" +
         std::to_string(width) + "\" height=\"800\" style=\"border:0\" srcdoc=\"" + quoted +
         "\"></iframe><script>onload=()=>{const d=document.getElementById('f').contentDocument;"
         "const e=d.documentElement;let wide=0,flat=0;"
         "for(const x of d.querySelectorAll('details'))x.open=true;"
         // What may stick out does so in a box that scrolls.
         "for(const x of d.querySelectorAll('main *')){if(x.closest('.scroll table,svg,pre'))continue;"
         "if(x.getBoundingClientRect().right>e.clientWidth+1)++wide;}"
         "for(const x of d.querySelectorAll('figure svg')){const b=x.getBoundingClientRect();"
         "if(b.width<100||b.height<50)++flat;"
         "for(const t of x.querySelectorAll('text')){const r=t.getBoundingClientRect();"
         "if(r.left<b.left-1||r.right>b.right+1||r.top<b.top-1||r.bottom>b.bottom+1)++flat;}}"
         "document.title=`width ${e.clientWidth}, scrolls ${e.scrollWidth}, outside ${wide}, "
         "broken plots ${flat}`;}</script></body></html>";
}

std::string formatted(const Json& json, const char* key) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.4g", json.find(key)->as_double());
  return text.data();
}

TEST(SlowReportPage, OpensInABrowserWithoutNetworkAndFitsAPhone) {
  if (std::getenv("PARE_SLOW_TESTS") == nullptr) GTEST_SKIP() << "set PARE_SLOW_TESTS to run it";
  if (browser().empty()) GTEST_SKIP() << "no Chromium: scripts/install-deps --tests installs it";
  const std::string folder = temporary_folder(), out = folder + "/out.pare";
  const CommandResult made =
      pare({"quantize", source_path("samples/books-3m"), "--scheme", "int4-g64", "--method", "gptq", "--data",
            source_path("samples/text/sample.txt"), "--samples", "16", "--context", "128", "-o", out});
  ASSERT_EQ(made.exit_code, 0) << made.error;
  ASSERT_EQ(pare({"report", out}).exit_code, 0);
  const std::string page = read_file(out + ".report.html");

  const Visit seen = visit(out + ".report.html", folder);
  EXPECT_THAT(seen.requests, testing::IsEmpty());
  // The browser drops nothing of it and reads the figures that the JSON form has.
  EXPECT_EQ(occurrences(seen.dom, "<svg"), occurrences(page, "<svg"));
  EXPECT_EQ(occurrences(seen.dom, "<tr>"), occurrences(page, "<tr>"));
  EXPECT_THAT(seen.dom, HasSubstr("<h1>out.pare</h1>"));
  const CommandResult result = pare({"report", out, "--json"});
  auto json = parse_json(result.out, "stdout", {.max_bytes = 1u << 26});
  ASSERT_TRUE(json.has_value()) << result.out;
  const Json& damage = *json->find("report")->find("damage");
  EXPECT_THAT(seen.dom, HasSubstr(">" + formatted(damage, "kl_mean") + " ± " +
                                  formatted(damage, "kl_mean_error") + "<"));
  for (const char* key : {"kl_median", "kl_p90", "kl_p95", "kl_p99", "kl_p999", "kl_max"})
    EXPECT_THAT(seen.dom, HasSubstr("<td class=\"n\">" + formatted(damage, key) + "</td>")) << key;
  const auto& worst = json->find("worst_tensors")->items();
  ASSERT_EQ(worst.size(), 8u);
  for (const Json& row : worst) {
    EXPECT_THAT(seen.dom, HasSubstr(row.find("name")->as_string()));
    EXPECT_THAT(seen.dom, HasSubstr("<td class=\"n\">" + formatted(row, "output_error") + "</td>"));
  }

  for (const int width : {320, 390, 768, 1280}) {
    const std::string path = folder + "/framed.html";
    write_file(path, framed(page, width));
    const std::string number = std::to_string(width);
    EXPECT_THAT(visit(path, folder).dom, HasSubstr("<title>width " + number + ", scrolls " + number +
                                                   ", outside 0, broken plots 0</title>"));
  }

  // Both checks can fail: a picture from elsewhere is seen, and so is something that is too wide.
  write_file(folder + "/bad.html", "<html><body><img src=\"http://pare.invalid/x.png\"></body></html>");
  EXPECT_THAT(visit(folder + "/bad.html", folder).requests, testing::Contains("http://pare.invalid/x.png"));
  write_file(folder + "/wide.html",
             framed("<!DOCTYPE html><main><p style=\"width:500px\">x</p></main>", 390));
  EXPECT_THAT(visit(folder + "/wide.html", folder).dom, HasSubstr("outside 1, broken plots 0</title>"));
}

}  // namespace
}  // namespace pare::test
