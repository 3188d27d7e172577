//! JSONL files, line by line, and files of one JSON array.

use super::array::elements;
use super::columns::Columns;
use super::forms::{parse_row, Form};
use super::rows::Rows;
use super::sample::Row;
use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// Longest line that is read, in bytes: a file without line breaks must not fill the memory.
pub const LINE_BYTES_MAX: usize = 16 << 20;

/// Largest file of one JSON array, in bytes: it is read as a whole.
const ARRAY_BYTES_MAX: u64 = 1 << 30;

/// Reads rows one at a time. Blank lines are skipped; a byte order mark at the start and `\r\n` are fine. A line that
/// is at fault gives an error ([`Kind::Data`], "FILE:LINE: why") and reading goes on behind it, so that all faults of a
/// file can be listed; after a read error or an overlong line nothing more comes.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    source: String,
    line: usize,
    form: Option<Form>,
    columns: Columns,
    buffer: Vec<u8>,
    /// The rows of an array that are still to come, the next one last, with their lines.
    array: Option<Vec<(usize, String)>>,
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
        Self {
            input,
            source: source.into(),
            line: 0,
            form: None,
            columns: Columns::default(),
            buffer: Vec::new(),
            array: None,
            ended: false,
        }
    }

    /// Finds the parts of rows in these columns.
    #[must_use]
    pub fn with_columns(self, columns: Columns) -> Self {
        Self { columns, ..self }
    }

    /// What the input is called in messages.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The line that was read last, from 1.
    pub fn line(&self) -> usize {
        self.line
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

    /// Takes the whole rest of the input for an array, of which the buffer holds the first line.
    fn begin_array(&mut self) -> Result<()> {
        self.ended = true;
        self.buffer.push(b'\n');
        let limit = ARRAY_BYTES_MAX + 1;
        let read = self.input.by_ref().take(limit).read_to_end(&mut self.buffer);
        read.map_err(|e| Error::io(&self.source, "cannot read", &e))?;
        if self.buffer.len() as u64 > ARRAY_BYTES_MAX {
            return Err(self.fault("the array is larger than 1 GiB: write one object per line instead"));
        }
        let first = self.line;
        let text = std::str::from_utf8(without_mark(&self.buffer, first))
            .map_err(|e| self.fault(&format!("not UTF-8 text (byte {} from here)", e.valid_up_to() + 1)))?;
        let elements = elements(text).map_err(|(line, reason)| {
            Error::new(Kind::Data, format!("{}:{}: {reason}", self.source, first + line - 1))
        })?;
        let owned = |(line, element): (usize, &str)| (first + line - 1, element.to_owned());
        self.array = Some(elements.into_iter().rev().map(owned).collect());
        self.buffer.clear();
        Ok(())
    }

    /// The next row of the array.
    fn next_element(&mut self) -> Option<Result<Row>> {
        let (line, element) = self.array.as_mut()?.pop()?;
        self.line = line;
        if element.len() > LINE_BYTES_MAX {
            return Some(Err(self.fault(&format!("the row is longer than {LINE_BYTES_MAX} bytes"))));
        }
        self.buffer = element.into_bytes();
        match self.row() {
            Ok(None) => Some(Err(self.fault("the row is empty"))),
            row => row.transpose(),
        }
    }

    /// Whether the first line that is not blank begins an array.
    fn is_array(&self) -> bool {
        self.form.is_none() && without_mark(&self.buffer, self.line).trim_ascii_start().starts_with(b"[")
    }

    /// Parses the line in the buffer; `None` for a blank one.
    fn row(&mut self) -> Result<Option<Row>> {
        let text = std::str::from_utf8(without_mark(&self.buffer, self.line))
            .map_err(|e| self.fault(&format!("not UTF-8 text (byte {} of the line)", e.valid_up_to() + 1)))?;
        if text.trim().is_empty() {
            return Ok(None);
        }
        let (form, example) = parse_row(text, &self.columns).map_err(|reason| self.fault(&reason))?;
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
        if self.array.is_some() {
            return self.next_element();
        }
        while !self.ended {
            match self.next_line() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(e) => return Some(Err(e)),
            }
            if self.is_array() {
                return match self.begin_array() {
                    Ok(()) => self.next_element(),
                    Err(e) => Some(Err(e)),
                };
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

/// Rows from memory, each one JSON object of any form, numbered from 1 in place of lines.
///
/// # Errors
/// As [`read_all`].
pub fn rows_from_json<S: AsRef<str>>(source: &str, rows: &[S], columns: &Columns) -> Result<Rows> {
    let element = |(i, row): (usize, &S)| (i + 1, row.as_ref().to_owned());
    let array = rows.iter().enumerate().map(element).rev().collect();
    let reader = Reader::new(std::io::empty(), source).with_columns(columns.clone());
    collect(Reader { array: Some(array), ..reader })
}

/// The bytes without a byte order mark, where they are the first line.
fn without_mark(bytes: &[u8], line: usize) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").filter(|_| line == 1).unwrap_or(bytes)
}

/// Reads a whole file: one JSON object per line, or one array of objects.
///
/// # Errors
/// The first fault of the file; [`Kind::Data`] for a file without rows.
pub fn read_all(path: &Path) -> Result<Rows> {
    read_all_with(path, &Columns::default())
}

/// The same, with the parts of rows in these columns.
///
/// # Errors
/// As [`read_all`].
pub fn read_all_with(path: &Path, columns: &Columns) -> Result<Rows> {
    collect(Reader::open(path)?.with_columns(columns.clone()))
}

fn collect<R: BufRead>(mut reader: Reader<R>) -> Result<Rows> {
    let rows = reader.by_ref().collect::<Result<Vec<_>>>()?;
    let source = reader.source;
    match reader.form {
        Some(form) => Ok(Rows { source, form, rows }),
        None => Err(Error::new(
            Kind::Data,
            format!("{source}: no rows: expected one JSON object per line, or an array of objects"),
        )),
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
    fn arrays_are_read_as_lines_are() {
        let file = format!("\u{feff}\n [\r\n{A},\n  {A},\n{{\"prompt\":1}},\n{A}]\n");
        let rows = read(file.as_bytes());
        let lines: Vec<_> = rows.iter().map(|row| row.as_ref().map_or(0, |row| row.line)).collect();
        assert_eq!(lines, [3, 4, 0, 6]);
        assert!(rows[2].as_ref().unwrap_err().to_string().starts_with("f:5: the keys fit no form"));
        let error = read(format!("[{A},\n{A}\n").as_bytes()).pop().unwrap().unwrap_err();
        assert!(error.kind() == Kind::Data && error.to_string().starts_with("f:"), "{error}");
        assert!(error.to_string().contains("not a valid JSON array"), "{error}");
        assert!(read(b"[]").is_empty());
        // Lines that are arrays are no rows, behind a first line that is none.
        assert!(read(format!("{A}\n[1]").as_bytes())[1].is_err());
    }

    #[test]
    fn rows_come_from_memory() {
        let rows =
            rows_from_json("rows", &[A, "{\"prompt\":\n\"p\",\"completion\":\"b\"}"], &Columns::default()).unwrap();
        assert_eq!((rows.form, rows.rows.len(), rows.rows[1].line), (Form::Completion, 2, 2));
        let error = rows_from_json("rows", &[A, "[]"], &Columns::default()).unwrap_err();
        assert!(error.to_string().starts_with("rows:2: "), "{error}");
        assert_eq!(rows_from_json::<&str>("rows", &[], &Columns::default()).unwrap_err().kind(), Kind::Data);
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
