//! `llama-align data check`: training data as a model will see it.

use super::args_data::DataCheckArgs;
use super::{dataset, open_model, Printer};
use crate::data::{check, DataCheck, EncodeOptions, LossMask, Rows, Sample, Sequence};
use crate::error::{Error, Kind, Result};
use crate::runtime::Model;
use crate::train::Method;

/// Faults that are listed, and lines that are named.
const LISTED_MAX: usize = 20;

const RESET: &str = "\x1b[0m";
const SCORED: &str = "\x1b[32m";
const UNSCORED: &str = "\x1b[2m";
const CONTROL: &str = "\x1b[1;33m";
const SCORED_CONTROL: &str = "\x1b[1;32;4m";

/// Runs the command; the exit status tells whether a row has a fault.
pub(super) fn run(args: &DataCheckArgs, printer: &mut Printer) -> Result<u8> {
    let method = args.method.as_deref().map(Method::from_name).transpose()?;
    let mask = LossMask::from_name(&args.loss_mask)?;
    let columns = dataset::columns(&args.columns)?;
    let (model, _) = open_model(&args.model, None, None)?;
    let max_length = dataset::max_length(args.max_length, &model, printer);
    let options = EncodeOptions { max_length, mask, parse_special: args.parse_special, ..EncodeOptions::default() };
    let template = model.template()?;
    let convert = |rows: Rows| method.map_or_else(|| Ok(rows.clone()), |method| method.rows(rows.clone()));
    let (found, samples) = check(&args.file, &columns, &convert, model.as_ref(), template.as_ref(), &options)?;
    if args.json {
        let json = serde_json::to_string(&found).map_err(|e| Error::new(Kind::Internal, e.to_string()))?;
        printer.data(&json);
    } else {
        describe(&found, model.chat_template().map(|source| source.len()), printer);
        let colours = printer.has_colours();
        for sample in samples.iter().take(args.show) {
            show(&model, sample, colours, printer);
        }
    }
    Ok(if found.faults.is_empty() { 0 } else { Kind::Data.exit_code() })
}

fn describe(found: &DataCheck, template_bytes: Option<usize>, printer: &mut Printer) {
    for fault in found.faults.iter().take(LISTED_MAX) {
        printer.data(&format!("fault: {fault}"));
    }
    if found.faults.len() > LISTED_MAX {
        printer.data(&format!("fault: and {} more", found.faults.len() - LISTED_MAX));
    }
    let form = found.form.as_deref().unwrap_or("no row could be read");
    printer.data(&format!("{}: {form}", found.source));
    printer.data(&format!("rows                {:>8}   with faults: {}", found.n_rows, found.faults.len()));
    let template =
        template_bytes.map_or("none: strings are used as they are".into(), |n| format!("the model's, {n} bytes"));
    printer.data(&format!("chat template       {template}"));
    printer.data(&format!("tokens              {:>8}   with a loss: {}", found.n_tokens, found.n_scored));
    if !found.lengths.is_empty() {
        printer.data("tokens per row           min   median      p95      max");
    }
    for (name, l) in &found.lengths {
        printer.data(&format!("  {name:18} {:>8} {:>8} {:>8} {:>8}", l.min, l.median, l.p95, l.max));
    }
    let longer = format!("longer than {}", found.max_length);
    printer.data(&format!("{longer:19} {:>8}{}", found.too_long.len(), lines(&found.too_long)));
    let doubles: Vec<usize> = found.duplicates.iter().map(|(line, _)| *line).collect();
    printer.data(&format!("duplicates          {:>8}{}", doubles.len(), lines(&doubles)));
    printer.data(&format!("repeated prompts    {:>8}", found.n_repeated_prompts));
    let named = &found.names_control_tokens;
    printer.data(&format!("name control tokens {:>8}{}", named.len(), lines(named)));
}

fn lines(lines: &[usize]) -> String {
    if lines.is_empty() {
        return String::new();
    }
    let named: Vec<_> = lines.iter().take(LISTED_MAX).map(usize::to_string).collect();
    let more = if lines.len() > LISTED_MAX { ", …" } else { "" };
    format!("   lines {}{more}", named.join(", "))
}

/// A row's tokens, separated by `|`. Without colours what has a loss stands between « and ».
fn show(model: &Model, sample: &Sample, colours: bool, printer: &mut Printer) {
    let parts: Vec<(&str, &Sequence)> = match sample {
        Sample::Completion { sequence, .. } => vec![("", sequence)],
        Sample::Pair { chosen, rejected, .. } => vec![(" chosen", chosen), (" rejected", rejected)],
        Sample::Labelled { sequence, desirable: true, .. } => vec![(" desirable", sequence)],
        Sample::Labelled { sequence, desirable: false, .. } => vec![(" undesirable", sequence)],
    };
    for (name, sequence) in parts {
        let (n, n_scored) = (sequence.tokens.len(), sequence.n_scored());
        printer.data(&format!("\n--- line {}{name}: {n} tokens, {n_scored} with a loss", sample.line()));
        let mut pieces: Vec<Piece> = sequence.tokens.iter().map(|&token| Piece::of(model, token)).collect();
        sequence.scored().for_each(|place| pieces[place].scored = true);
        printer.data(&line(&pieces, colours));
    }
}

/// A token as it is shown.
struct Piece {
    text: String,
    control: bool,
    scored: bool,
}

impl Piece {
    fn of(model: &Model, token: i32) -> Self {
        let text = visible(&String::from_utf8_lossy(&model.piece(token, true)));
        Self { text, control: model.piece(token, false).is_empty(), scored: false }
    }
}

fn line(pieces: &[Piece], colours: bool) -> String {
    let mut out = String::new();
    let mut before = false;
    for Piece { text, control, scored } in pieces {
        if colours {
            let style = match (scored, control) {
                (true, true) => SCORED_CONTROL,
                (true, false) => SCORED,
                (false, true) => CONTROL,
                (false, false) => UNSCORED,
            };
            out.push_str(&format!("{style}{text}{RESET}|"));
        } else {
            match (before, *scored) {
                (false, true) => out.push('«'),
                (true, false) => out.push('»'),
                _ => {}
            }
            out.push_str(text);
            out.push('|');
        }
        before = *scored;
    }
    if !colours && before {
        out.push('»');
    }
    out
}

/// A token's text on one line, which cannot command a terminal.
fn visible(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\n' => out.push('⏎'),
            c if c.is_control() => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_loss_is_marked_by_colour_or_by_quotes() {
        let piece = |text: &str, control, scored| Piece { text: text.into(), control, scored };
        let row = [
            piece("<s>", true, false),
            piece("ask", false, false),
            piece("say", false, true),
            piece("</s>", true, true),
        ];
        assert_eq!(line(&row, false), "<s>|ask|«say|</s>|»");
        let styles = [CONTROL, UNSCORED, SCORED, SCORED_CONTROL];
        let wanted: String = row.iter().zip(styles).map(|(p, style)| format!("{style}{}{RESET}|", p.text)).collect();
        assert_eq!(line(&row, true), wanted);
        let different: std::collections::BTreeSet<_> = styles.into_iter().collect();
        assert!(different.len() == 4 && styles.iter().all(|style| style.starts_with('\x1b')));
    }
}
