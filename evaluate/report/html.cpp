#include "evaluate/report/html.h"

namespace pare::report {

std::string escape(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string html_table(std::string_view caption, std::span<const Column> columns,
                       const std::vector<std::vector<std::string>>& rows) {
  // Focusable, so that a keyboard can scroll it.
  std::string out = "<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-label=\"" + escape(caption) +
                    "\">\n<table>\n<caption>" + escape(caption) + "</caption>\n<thead><tr>";
  for (const Column& column : columns)
    out += std::string("<th scope=\"col\"") + (column.is_number ? " class=\"n\">" : ">") +
           escape(column.title) + "</th>";
  out += "</tr></thead>\n<tbody>\n";
  for (const std::vector<std::string>& row : rows) {
    out += "<tr>";
    for (size_t i = 0; i < row.size(); ++i) {
      const bool is_number = columns[i].is_number;
      out += i == 0 ? (is_number ? "<th scope=\"row\" class=\"n\">" : "<th scope=\"row\">")
                    : (is_number            ? "<td class=\"n\">"
                       : columns[i].is_long ? "<td class=\"long\">"
                                            : "<td>");
      out += escape(row[i]) + (i == 0 ? "</th>" : "</td>");
    }
    out += "</tr>\n";
  }
  return out + "</tbody>\n</table>\n</div>\n";
}

std::string_view style_sheet() {
  // Contrast of text on its ground is at least 4.5:1 in both schemes, of marks at least 3:1.
  return R"css(
:root{color-scheme:light dark;--ground:#fdfdfb;--card:#ffffff;--ink:#1c2025;--soft:#575e66;--line:#d9dcd8;
--accent:#0b5fa5;--accent-soft:#0b5fa526;--before:#767c83;--before-soft:#8a909633;--warn:#8a3b00;
--warn-ground:#fff4e5;--warn-line:#e0a35a}
@media (prefers-color-scheme:dark){:root{--ground:#14171a;--card:#1b1f23;--ink:#e6e8ea;--soft:#a9b0b7;
--line:#343a40;--accent:#6cb6ff;--accent-soft:#6cb6ff33;--before:#9aa2aa;--before-soft:#9aa2aa33;--warn:#ffc27a;
--warn-ground:#2b2115;--warn-line:#7a5420}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0;background:var(--ground);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",
Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:74rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.75rem;line-height:1.2;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.3;margin:2.75rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--line)}
h3{font-size:1rem;margin:1.5rem 0 .25rem;overflow-wrap:anywhere}
p,ul{max-width:46rem;margin:.5rem 0}
ul{padding-left:1.2rem}
.sub,.note,figcaption,caption{color:var(--soft)}
.note,figcaption{font-size:.875rem}
.warn{background:var(--warn-ground);border:1px solid var(--warn-line);border-left-width:.4rem;border-radius:.4rem;
padding:.75rem 1rem;margin:1.25rem 0}
.warn h2{border:0;margin:0 0 .25rem;padding:0;font-size:1.0625rem;color:var(--warn)}
.warn li{overflow-wrap:anywhere}
.missing{border:1px dashed var(--line);border-radius:.4rem;padding:.5rem 1rem;margin:1.25rem 0;font-size:.9375rem}
.missing li{overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.75rem;margin:1.5rem 0;padding:0}
.tiles div{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem 1rem}
.tiles dt{color:var(--soft);font-size:.8125rem}
.tiles dd{margin:0;font-size:1.125rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,20.5rem),1fr));gap:1rem;margin:1rem 0}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem;min-width:0}
figcaption{margin:0 0 .25rem;overflow-wrap:anywhere}
figcaption b{color:var(--ink)}
svg{display:block;width:100%;height:auto;max-width:30rem}
svg text{fill:var(--soft);font:11px system-ui,sans-serif;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line);stroke-width:1;fill:none}
.ours{stroke:var(--accent);fill:none;stroke-width:1.75}
.ours.fill{fill:var(--accent-soft)}
.mark{fill:var(--accent)}
.plain{stroke:var(--before);fill:none;stroke-width:1.5;stroke-dasharray:4 3}
.ring{stroke:var(--before);fill:var(--card);stroke-width:1.5}
.before{fill:var(--before-soft);stroke:var(--before);stroke-width:1}
.bar{fill:var(--accent)}
.bar.old{fill:var(--before)}
.key{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;margin:.5rem 0;padding:0;list-style:none;font-size:.875rem;
color:var(--soft);max-width:none}
.key svg{display:inline-block;width:2rem;height:.75rem;vertical-align:middle;margin-right:.4rem}
.scroll{overflow-x:auto;margin:.75rem 0;border:1px solid var(--line);border-radius:.5rem;background:var(--card)}
.narrow .scroll{max-width:46rem}
.narrow thead th{white-space:normal}
.scroll:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
table{border-collapse:collapse;width:100%;font-size:.875rem;line-height:1.4}
caption{text-align:left;padding:.5rem .75rem;font-size:.8125rem}
th,td{padding:.35rem .75rem;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
thead th{color:var(--soft);font-weight:600;border-top:0;white-space:nowrap}
tbody th{font-weight:500}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.long{min-width:18rem;overflow-wrap:anywhere}
code,pre,.mono{font:0.8125rem/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"Liberation Mono",monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.75rem;overflow-x:auto;margin:.5rem 0;
white-space:pre-wrap;overflow-wrap:anywhere}
details{margin:.75rem 0}
summary{cursor:pointer;padding:.35rem 0;overflow-wrap:anywhere}
dl.facts{display:grid;grid-template-columns:minmax(8rem,max-content) 1fr;gap:.25rem 1rem;margin:.75rem 0;font-size:.9375rem}
dl.facts dt{color:var(--soft)}
dl.facts dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
mark{background:var(--accent-soft);color:inherit;border-radius:.2rem;padding:0 .15rem}
@media (max-width:30rem){main{padding:1rem .75rem 3rem}h1{font-size:1.375rem}
dl.facts{grid-template-columns:1fr;gap:0}dl.facts dd{margin-bottom:.5rem}
.tiles{grid-template-columns:1fr 1fr}.tiles dd{font-size:1rem}}
@media print{:root{--ground:#fff;--card:#fff;--ink:#000;--soft:#333;--line:#bbb;--accent:#0b5fa5;
--accent-soft:#0b5fa526;--before:#555;--before-soft:#5553;--warn:#000;--warn-ground:#fff;--warn-line:#000}
html,body{font-size:10pt}main{max-width:none;padding:0}h2{break-after:avoid}figure,tr,.warn{break-inside:avoid}
.plots{grid-template-columns:repeat(3,1fr);gap:.5rem}td.long{min-width:0}.scroll{overflow:visible;border:0}
table{font-size:7.5pt}th,td,thead th{padding:.15rem .3rem;overflow-wrap:anywhere;white-space:normal}thead{display:table-header-group}
pre{white-space:pre-wrap}}
@page{margin:14mm}
)css";
}

}  // namespace pare::report
