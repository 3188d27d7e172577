//! Tables of text: Markdown, CSV, LaTeX.

use crate::error::{Error, Kind, Result};

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFormat {
    /// Markdown, aligned.
    Markdown,
    /// Comma-separated values (RFC 4180).
    Csv,
    /// A LaTeX `tabular`.
    Latex,
}

impl TableFormat {
    /// Reads its name: md, csv or latex.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "md" | "markdown" => Ok(Self::Markdown),
            "csv" => Ok(Self::Csv),
            "latex" | "tex" => Ok(Self::Latex),
            _ => Err(Error::new(Kind::Argument, format!("format: {name} is none of md, csv, latex"))),
        }
    }
}

/// Writes rows under a heading; every row has as many cells as it.
pub(super) fn write(format: TableFormat, heading: &[String], rows: &[Vec<String>]) -> String {
    match format {
        TableFormat::Markdown => markdown(heading, rows),
        TableFormat::Csv => {
            let line = |cells: &[String]| cells.iter().map(|c| csv(c)).collect::<Vec<_>>().join(",") + "\r\n";
            std::iter::once(heading).chain(rows.iter().map(Vec::as_slice)).map(line).collect()
        }
        TableFormat::Latex => {
            let line = |cells: &[String]| cells.iter().map(|c| latex(c)).collect::<Vec<_>>().join(" & ") + " \\\\\n";
            let columns = "r".repeat(heading.len().saturating_sub(1));
            let body: String = rows.iter().map(|r| line(r)).collect();
            format!(
                "\\begin{{tabular}}{{l{columns}}}\n\\hline\n{}\\hline\n{body}\\hline\n\\end{{tabular}}\n",
                line(heading)
            )
        }
    }
}

fn markdown(heading: &[String], rows: &[Vec<String>]) -> String {
    let safe = |cell: &String| cell.replace('\\', "\\\\").replace('|', "\\|").replace(['\n', '\r'], " ");
    let all: Vec<Vec<String>> =
        std::iter::once(heading).chain(rows.iter().map(Vec::as_slice)).map(|r| r.iter().map(safe).collect()).collect();
    let width = |k: usize| all.iter().map(|r| r[k].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(c, w)| format!(" {c}{} ", " ".repeat(w - c.chars().count())));
        format!("|{}|\n", padded.collect::<Vec<_>>().join("|"))
    };
    let rule: Vec<String> = widths.iter().map(|w| "-".repeat(w + 2)).collect();
    let body: String = all[1..].iter().map(|r| line(r)).collect();
    format!("{}|{}|\n{body}", line(&all[0]), rule.join("|"))
}

fn csv(cell: &str) -> String {
    match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell.to_owned(),
    }
}

fn latex(cell: &str) -> String {
    let mut out = String::new();
    for c in cell.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '&' | '%' | '$' | '#' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            '±' => out.push_str("$\\pm$"),
            '−' => out.push_str("$-$"),
            '\n' | '\r' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_cannot_break_out_of_their_table() {
        let heading = ["run".to_owned(), "x".to_owned()];
        let rows = [vec!["a|b\nc".to_owned(), "1 ± 2".to_owned()], vec!["50%_{\"q\", \\}".to_owned(), "−3".to_owned()]];
        let md = write(TableFormat::Markdown, &heading, &rows);
        assert_eq!(md.lines().count(), 4);
        assert!(
            md.contains("| a\\|b c")
                && md.lines().all(|l| l.chars().count() == md.lines().next().unwrap().chars().count()),
            "{md}"
        );
        assert_eq!(write(TableFormat::Csv, &heading, &rows[1..]), "run,x\r\n\"50%_{\"\"q\"\", \\}\",−3\r\n");
        let tex = write(TableFormat::Latex, &heading, &rows);
        assert!(
            tex.contains("50\\%\\_\\{\"q\", \\textbackslash{}\\} & $-$3 \\\\") && tex.contains("1 $\\pm$ 2"),
            "{tex}"
        );
        assert!(TableFormat::from_name("xls").is_err());
    }
}
