//! JSONL files, line by line.

use super::forms::{parse_line, Form};
use super::rows::Rows;
use super::sample::Row;
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that is read, in bytes: a file without line breaks must not fill the memory.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Reads rows one at a time. Blank lines are skipped; a byte order mark at the start and `\r\n` are fine. A line that
/// is at fault gives an error ([`Kind::Data`], "FILE:LINE: why") and reading goes on behind it, so that all faults of a
/// file can be listed; after a read error or an overlong line nothing more comes.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    source: String,
    line: usize,
    form: Option<Form>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Reader<BufReader<File>> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`Kind::Missing`] or [`Kind::Io`].
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|e| Error::io(path, "cannot open", &e))?;
        Ok(Self::new(BufReader::new(file), path.display().to_string()))
    }
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`, called `source` in messages.
    pub fn new(input: R, source: impl Into<String>) -> Self {
        Self { input, source: source.into(), line: 0, form: None, buffer: Vec::new(), ended: false }
    }

    /// The form of the rows read so far: that of the first one.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    fn fault(&self, reason: &str) -> Error {
        Error::new(Kind::Data, format!("{}:{}: {reason}", self.source, self.line))
    }

    /// Brings the next line into the buffer, without its line break; `false` at the end.
    fn next_line(&mut self) -> Result<bool> {
        self.buffer.clear();
        self.line += 1;
        // One byte more than allowed for the content and two for the line break.
        let limit = LINE_BYTES_MAX as u64 + 3;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.buffer);
        if let Err(e) = read {
            self.ended = true;
            return Err(Error::io(&self.source, "cannot read", &e));
        }
        if self.buffer.is_empty() {
            self.ended = true;
            return Ok(false);
        }
        for end in [b'\n', b'\r'] {
            if self.buffer.last() == Some(&end) {
                self.buffer.pop();
            }
        }
        if self.buffer.len() > LINE_BYTES_MAX {
            self.ended = true;
            return Err(self.fault(&format!("the line is longer than {LINE_BYTES_MAX} bytes")));
        }
        Ok(true)
    }

    /// Parses the line in the buffer; `None` for a blank one.
    fn row(&mut self) -> Result<Option<Row>> {
        let bytes = match self.buffer.strip_prefix(b"\xef\xbb\xbf") {
            Some(rest) if self.line == 1 => rest,
            _ => self.buffer.as_slice(),
        };
        let text = std::str::from_utf8(bytes)
            .map_err(|e| self.fault(&format!("not UTF-8 text (byte {} of the line)", e.valid_up_to() + 1)))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let (form, example) = parse_line(text).map_err(|reason| self.fault(&reason))?;
        let expected = *self.form.get_or_insert(form);
        if form != expected {
            return Err(self.fault(&format!("the row is {form}, but the rows before it are {expected}")));
        }
        Ok(Some(Row { line: self.line, example }))
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            match self.next_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(e)),
            }
            match self.row() {
                Ok(None) => {}
                Ok(Some(row)) => return Some(Ok(row)),
                Err(e) => return Some(Err(e)),
            }
        }
        None
    }
}

/// Reads a whole file.
///
/// # Errors
/// The first fault of the file; [`Kind::Data`] for a file without rows.
pub fn read_all(path: &Path) -> Result<Rows> {
    collect(Reader::open(path)?)
}

fn collect<R: BufRead>(mut reader: Reader<R>) -> Result<Rows> {
    let rows = reader.by_ref().collect::<Result<Vec<_>>>()?;
    let source = reader.source;
    match reader.form {
        Some(form) => Ok(Rows { source, form, rows }),
        None => Err(Error::new(Kind::Data, format!("{source}: no rows: expected one JSON object per line"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Example, Text};

    const A: &str = r#"{"prompt":"p","completion":"a"}"#;

    fn read(bytes: &[u8]) -> Vec<Result<Row>> {
        Reader::new(bytes, "f").collect()
    }

    #[test]
    fn byte_order_mark_crlf_and_blank_lines() {
        let file = format!("\u{feff}{A}\r\n\r\n  \n{A}");
        let lines: Vec<_> = read(file.as_bytes()).into_iter().map(|row| row.unwrap().line).collect();
        assert_eq!(lines, [1, 4]);
    }

    #[test]
    fn faults_name_file_and_line_and_reading_goes_on() {
        let file =
            [A.as_bytes(), b"\n{\"prompt\":\"\xff\"}\n", b"{\n", br#"{"messages":[]}"#, b"\n", A.as_bytes()].concat();
        let rows = read(&file);
        assert_eq!(rows.len(), 5);
        for (i, reason) in
            [(1, "not UTF-8 text (byte 12 of the line)"), (2, "not a valid JSON object"), (3, "is empty")]
        {
            let error = rows[i].as_ref().unwrap_err();
            assert_eq!(error.kind(), Kind::Data);
            assert!(error.to_string().starts_with(&format!("f:{}: ", i + 1)), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        assert_eq!(rows[4].as_ref().unwrap().line, 5);
    }

    #[test]
    fn all_rows_have_one_form() {
        let file = format!("{A}\n{}", r#"{"prompt":"p","completion":"a","label":true}"#);
        let error = read(file.as_bytes()).pop().unwrap().unwrap_err();
        assert!(error.to_string().contains("the rows before it are {prompt, completion}"), "{error}");
    }

    #[test]
    fn a_line_without_end_stops_the_reading() {
        let line = |bytes: usize| {
            let frame = r#"{"prompt":"p","completion":""}"#.len();
            format!("{{\"prompt\":\"p\",\"completion\":\"{}\"}}\r\n{A}\n", "x".repeat(bytes - frame))
        };
        let rows = read(line(LINE_BYTES_MAX).as_bytes());
        assert_eq!(rows.len(), 2);
        let Example::Completion { completion: Text::Plain(text), .. } = &rows[0].as_ref().unwrap().example else {
            panic!("a completion")
        };
        assert_eq!(text.len(), LINE_BYTES_MAX - r#"{"prompt":"p","completion":""}"#.len());
        for bytes in [LINE_BYTES_MAX + 1, LINE_BYTES_MAX + 4] {
            let rows = read(line(bytes).as_bytes());
            assert_eq!(rows.len(), 1);
            assert!(rows[0].as_ref().unwrap_err().to_string().contains("f:1: the line is longer"));
        }
    }

    #[test]
    fn files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        assert_eq!(read_all(&path).unwrap_err().kind(), Kind::Missing);
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read_all(&path).unwrap_err().kind(), Kind::Data);
        std::fs::write(&path, format!("{A}\n{A}\n")).unwrap();
        let rows = read_all(&path).unwrap();
        assert_eq!((rows.form, rows.rows.len()), (Form::Completion, 2));
        assert_eq!(rows.source, path.display().to_string());
        assert_eq!(read_all(dir.path()).unwrap_err().kind(), Kind::Io);
    }
}
