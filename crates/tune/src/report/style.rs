//! How pages and pictures look, in the light and in the dark; nothing is fetched from anywhere.

use super::text::escape;

/// Colours of lines and bars: `c0` and so on.
pub(super) const COLORS: usize = 8;

/// Of pictures, on a page or in a file of their own.
pub(super) const OF_PICTURES: &str = "\
svg{--ink:#2b2a28;--soft:#6d6860;--rule:#e4dfd7}
.c0{--c:#1e5bb3}.c1{--c:#c2570c}.c2{--c:#2e7d32}.c3{--c:#8e3a9d}.c4{--c:#00707a}.c5{--c:#b3261e}.c6{--c:#8a6100}.c7{--c:#5f5b55}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;font-variant-numeric:tabular-nums}
svg text.name{fill:var(--ink)}
.grid{stroke:var(--rule);fill:none}.axis{stroke:var(--soft);fill:none}
.line{stroke:var(--c);stroke-width:2;fill:none;stroke-linejoin:round}
.faint{opacity:.32;stroke-width:1}
.dot,.bar{fill:var(--c)}
.dashed{stroke-dasharray:6 3}
.paper{fill:#fbfaf8}
@media(prefers-color-scheme:dark){svg{--ink:#e8e4dc;--soft:#a8a39a;--rule:#3a3733}
.c0{--c:#8ab4f8}.c1{--c:#f2a66b}.c2{--c:#8fd694}.c3{--c:#d7a1e0}.c4{--c:#6fd3dc}.c5{--c:#ff8a80}.c6{--c:#e6c15a}.c7{--c:#b8b2a8}.paper{fill:#1b1a18}}
";

/// Of a page around its pictures.
pub(super) const OF_PAGES: &str = "\
:root{color-scheme:light dark;--ink:#2b2a28;--soft:#6d6860;--rule:#e4dfd7;--paper:#fbfaf8;--card:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e8e4dc;--soft:#a8a39a;--rule:#3a3733;--paper:#1b1a18;--card:#242220}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:15px/1.55 system-ui,-apple-system,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}
main{max-width:840px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.7rem;line-height:1.25;margin:0 0 .25rem;overflow-wrap:anywhere}
h3{font-size:.95rem;font-weight:500;margin:1.2rem 0 .4rem;overflow-wrap:anywhere}
.note{font-size:.88rem}
h2{font-size:1.1rem;margin:2.5rem 0 .6rem}
p{margin:.4rem 0;max-width:70ch}
.soft,figcaption{color:var(--soft)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(220px,42%),1fr));gap:.75rem;margin:1.5rem 0;padding:0;list-style:none}
.tiles li{background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.6rem .8rem}
.tiles b{display:block;font-size:1.25rem;font-weight:600;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tiles span{color:var(--soft);font-size:.85rem}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:.9rem;overflow-x:auto}
figure svg{display:block;width:100%;min-width:520px;height:auto}
figcaption{font-size:.85rem;margin-top:.5rem}
.legend{display:flex;flex-wrap:wrap;gap:.15rem 1.1rem;margin:0 0 .6rem;padding:0;list-style:none;font-size:.85rem}
.legend li{overflow-wrap:anywhere}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.45em;background:var(--c)}
.dashed i{background:repeating-linear-gradient(90deg,var(--c) 0 4px,transparent 4px 6px)}
.wide{overflow-x:auto}figure+.wide{margin-top:1rem}
table{border-collapse:collapse;width:100%;font-size:.92rem}
th,td{text-align:left;vertical-align:top;padding:.35rem .9rem .35rem 0;border-bottom:1px solid var(--rule);overflow-wrap:anywhere}
thead th{color:var(--soft);font-weight:500;vertical-align:bottom}
tbody th{font-weight:400}
.numbers th:not(:first-child),.numbers td{text-align:right;font-variant-numeric:tabular-nums}
.numbers th{min-width:8em;overflow-wrap:break-word}
.best{font-weight:700}
tfoot th,tfoot td{border-bottom:0;font-weight:600}
@media print{main{max-width:none}figure,.tiles li{break-inside:avoid}}
";

/// A picture for a page.
pub(super) fn svg(width: f64, height: f64, label: &str, body: &str) -> String {
    format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}\">{body}</svg>", escape(label))
}
