//! Where a mask lies in a model: a page with a map of blocks and modules.

use super::html::{escape, foreign};
use super::page::shell;
use crate::mask::{shares, Mask, Share};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// Side of a cell of the map.
const CELL: usize = 26;
/// Colours of the style sheet.
const STEPS: usize = 8;

/// The page of a mask; `name` is what it is called.
pub fn mask_page(mask: &Mask, name: &str) -> String {
    let shares = shares(mask);
    let mut total = Share::default();
    shares.values().for_each(|share| total.add(share));
    let unit = mask.granularity().name();
    let mut body = format!("<header>\n<h1>{}</h1>\n", foreign(name));
    let percent = |share: f64| format!("{:.2} %", 100.0 * share);
    let _ = write!(
        body,
        "<p class=\"lead\">{} of {} {unit}s may move: {} of {} weights, {}.</p>\n</header>\n",
        total.count,
        total.n,
        total.weights,
        total.n_weights,
        percent(total.ratio())
    );
    map(&mut body, &shares);
    table(&mut body, &shares, unit);
    body.push_str("<h2>Provenance</h2>\n<div class=\"scroll\"><table><tbody>\n");
    for (key, value) in &mask.provenance {
        let _ =
            writeln!(body, "<tr><th scope=\"row\">{}</th><td><code>{}</code></td></tr>", escape(key), escape(value));
    }
    body.push_str("</tbody></table></div>\n");
    shell(name, &body)
}

type Shares = BTreeMap<(Option<usize>, String), Share>;

/// Blocks from top to bottom, modules from left to right; colours are equal steps up to the largest share.
fn map(body: &mut String, shares: &Shares) {
    let modules: Vec<&String> = shares.keys().map(|(_, module)| module).collect::<BTreeSet<_>>().into_iter().collect();
    let blocks: Vec<Option<usize>> = shares.keys().map(|(b, _)| *b).collect::<BTreeSet<_>>().into_iter().collect();
    let most = shares.values().map(Share::ratio).fold(0.0f64, f64::max);
    let (left, top) = (64, 108);
    let (width, height) = (left + modules.len() * 2 * CELL + 40, top + blocks.len() * CELL + 8);
    let _ = write!(
        body,
        "<h2>Share of every tensor</h2>\n<figure>\n<figcaption><h3>Blocks and modules</h3><p class=\"note\">The darkest \
         stands for {:.2} %, the largest share; point at a cell for its numbers.</p></figcaption>\n\
         <svg viewBox=\"0 0 {width} {height}\" style=\"max-width:{}rem\" role=\"img\" aria-label=\"Share of every tensor \
         that may move\">\n",
        100.0 * most,
        width / 14
    );
    for (x, module) in modules.iter().enumerate() {
        let at = left + x * 2 * CELL + CELL;
        let _ = writeln!(
            body,
            "<text x=\"{at}\" y=\"{}\" transform=\"rotate(-45 {at} {})\">{}</text>",
            top - 8,
            top - 8,
            escape(module)
        );
    }
    for (y, block) in blocks.iter().enumerate() {
        let label = block.map_or("other".to_owned(), |b| b.to_string());
        let _ = writeln!(
            body,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{label}</text>",
            left - 8,
            top + y * CELL + CELL / 2 + 4
        );
        for (x, module) in modules.iter().enumerate() {
            let Some(share) = shares.get(&(*block, (*module).clone())) else { continue };
            let step = match most > 0.0 {
                true => ((share.ratio() / most * (STEPS - 1) as f64).ceil() as usize).min(STEPS - 1),
                false => 0,
            };
            let _ = writeln!(
                body,
                "<rect class=\"h{step}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"><title>{label} {}: {} of {}, {:.2} % \
                 of its weights</title></rect>",
                left + x * 2 * CELL,
                top + y * CELL,
                2 * CELL - 2,
                CELL - 2,
                escape(module),
                share.count,
                share.n,
                100.0 * share.ratio()
            );
        }
    }
    body.push_str("</svg>\n</figure>\n");
}

/// The same as numbers, by module over all blocks.
fn table(body: &mut String, shares: &Shares, unit: &str) {
    let mut modules: BTreeMap<&str, Share> = BTreeMap::new();
    for ((_, module), share) in shares {
        modules.entry(module).or_default().add(share);
    }
    let _ = write!(
        body,
        "<h2>By module</h2>\n<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Module</th><th scope=\"col\" \
         class=\"number\">{unit}s</th><th scope=\"col\" class=\"number\">of</th><th scope=\"col\" class=\"number\">Share of its \
         weights</th></tr></thead>\n<tbody>\n"
    );
    for (module, share) in modules {
        let _ = writeln!(
            body,
            "<tr><th scope=\"row\">{}</th><td class=\"number\">{}</td><td class=\"number\">{}</td><td class=\"number\">{:.2} \
             %</td></tr>",
            escape(module),
            share.count,
            share.n,
            100.0 * share.ratio()
        );
    }
    body.push_str("</tbody></table></div>\n");
}
