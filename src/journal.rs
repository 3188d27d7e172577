//! Work that is done item by item and may be interrupted: a journal beside the file that it becomes.

use crate::error::{Error, Kind, Result};
use crate::gguf::write_atomically;
use serde_json::{json, Value};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A journal, `OUT.part`: its first line names the work, every other line is one finished item. An item that was being
/// written when the program ended is forgotten.
#[derive(Debug)]
pub struct Journal {
    out: PathBuf,
    part: PathBuf,
    file: File,
    items: Vec<Value>,
}

impl Journal {
    /// Begins a journal for `out`, or takes up the one that is there. `work` is everything that the result depends on: a
    /// journal of other work is refused.
    ///
    /// # Errors
    /// [`Kind::Output`] where `out` or a journal of other work exists; `overwrite` removes both instead.
    pub fn open(out: &Path, work: &Value, overwrite: bool) -> Result<Self> {
        let mut part = out.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        if overwrite {
            for path in [out, part.as_path()].into_iter().filter(|path| path.exists()) {
                std::fs::remove_file(path).map_err(|e| Error::io(path, "cannot remove", &e))?;
            }
        }
        let made = || {
            let file = OpenOptions::new().read(true).append(true).create(true).open(&part);
            file.map_err(|e| Error::new(Kind::Output, format!("{}: cannot be made: {e}", part.display())))
        };
        let name = blake3::hash(work.to_string().as_bytes()).to_hex().to_string();
        if !part.exists() {
            if out.exists() {
                let message = format!("{}: the file exists; --overwrite replaces it", out.display());
                return Err(Error::new(Kind::Output, message));
            }
            let mut journal = Self { out: out.to_owned(), file: made()?, part, items: Vec::new() };
            journal.write(&[json!({ "work": name })])?;
            return Ok(journal);
        }
        let mut file = made()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(|e| Error::io(&part, "cannot read", &e))?;
        let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
        let lines = bytes.get(..whole).unwrap_or_default().split(|b| *b == b'\n').filter(|line| !line.is_empty());
        let items = lines.map(serde_json::from_slice::<Value>).collect::<std::result::Result<Vec<_>, _>>();
        let mut items = items.unwrap_or_default();
        if items.first().and_then(|head| head["work"].as_str()) != Some(name.as_str()) {
            let message = format!(
                "{}: holds unfinished work on other data or with other settings; --overwrite begins anew",
                part.display()
            );
            return Err(Error::new(Kind::Output, message));
        }
        items.remove(0);
        file.set_len(whole as u64).map_err(|e| Error::io(&part, "cannot be cut", &e))?;
        Ok(Self { out: out.to_owned(), part, file, items })
    }

    /// What was finished, in the order in which it was.
    pub fn items(&self) -> &[Value] {
        &self.items
    }

    /// Adds finished items; they survive whatever ends the program then.
    ///
    /// # Errors
    /// [`Kind::Io`], naming the journal.
    pub fn push(&mut self, items: impl IntoIterator<Item = Value>) -> Result<()> {
        let items: Vec<Value> = items.into_iter().collect();
        self.write(&items)?;
        self.items.extend(items);
        Ok(())
    }

    fn write(&mut self, items: &[Value]) -> Result<()> {
        let text: String = items.iter().map(|item| format!("{item}\n")).collect();
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|e| Error::io(&self.part, "cannot write", &e))
    }

    /// Writes the rows that the work came to, one JSON object per line, all or none of them.
    ///
    /// # Errors
    /// [`Kind::Output`] or [`Kind::Io`]; the journal stays then.
    pub fn publish(&self, rows: impl IntoIterator<Item = Value>) -> Result<()> {
        let text: String = rows.into_iter().map(|row| format!("{row}\n")).collect();
        write_atomically(&self.out, text.as_bytes())
    }

    /// Ends the work: the journal is removed.
    ///
    /// # Errors
    /// [`Kind::Io`].
    pub fn remove(self) -> Result<()> {
        std::fs::remove_file(&self.part).map_err(|e| Error::io(&self.part, "cannot remove", &e))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_taken_up_where_it_was_left() {
        let dir = tempfile::tempdir().unwrap();
        let (out, part) = (dir.path().join("rows.jsonl"), dir.path().join("rows.jsonl.part"));
        let work = json!({ "seed": 1 });
        let mut journal = Journal::open(&out, &work, false).unwrap();
        journal.push([json!({ "i": 0 }), json!({ "i": 1 })]).unwrap();
        drop(journal);
        // Ended in the middle of a line.
        OpenOptions::new().append(true).open(&part).unwrap().write_all(b"{\"i\":").unwrap();
        let mut journal = Journal::open(&out, &work, false).unwrap();
        assert_eq!(journal.items(), [json!({ "i": 0 }), json!({ "i": 1 })]);
        journal.push([json!({ "i": 2 })]).unwrap();
        drop(journal);
        let other = Journal::open(&out, &json!({ "seed": 2 }), false).unwrap_err();
        assert!(other.kind() == Kind::Output && other.to_string().contains("--overwrite"), "{other}");
        let journal = Journal::open(&out, &work, false).unwrap();
        assert_eq!(journal.items().len(), 3);
        journal.publish(journal.items().to_vec()).unwrap();
        journal.remove().unwrap();
        assert_eq!(std::fs::read_to_string(&out).unwrap(), "{\"i\":0}\n{\"i\":1}\n{\"i\":2}\n");
        assert!(!part.exists());
        assert_eq!(Journal::open(&out, &work, false).unwrap_err().kind(), Kind::Output);
        let journal = Journal::open(&out, &json!({ "seed": 2 }), true).unwrap();
        assert!(journal.items().is_empty() && !out.exists());
        drop(journal);
        std::fs::write(&part, "no journal\n").unwrap();
        assert!(Journal::open(&out, &work, false).is_err());
        assert_eq!(Journal::open(&dir.path().join("no/rows"), &work, false).unwrap_err().kind(), Kind::Output);
    }
}
