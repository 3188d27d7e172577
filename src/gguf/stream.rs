//! Writing a GGUF file, or several that are one model, larger than memory: tensors one after another, piece by piece.

use super::behind::{Behind, Target};
use super::draft::Draft;
use super::{split, File, Header, Value};
use crate::error::{Error, Kind, Result};
use quant::Type;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A model in the making whose keys, names and shapes are fixed. A tensor's type may still change when its turn comes, and it
/// may be begun anew: types and offsets have a fixed size, so headers are written once more at the end. A thread of its own
/// does the writing.
#[derive(Debug)]
pub struct Stream {
    // Before the files: it ends before they are taken away.
    behind: Behind,
    parts: Vec<Part>,
    /// Tensors before each part.
    firsts: Vec<usize>,
    paths: Vec<PathBuf>,
}

impl Stream {
    /// Begins a file beside `path`, where it will appear when it is complete.
    pub fn create(path: &Path, header: Header) -> Result<Self> {
        let parts = vec![Part::create(path, header)?];
        Ok(Self { behind: Behind::new()?, parts, firsts: vec![0], paths: vec![path.to_owned()] })
    }

    /// Begins files of at most `limit` bytes of data each, named after `path` as llama.cpp names them, where the tensors have
    /// at most these sizes; one file under the path itself where all fit into one. A tensor is never cut.
    pub fn create_split(path: &Path, header: Header, sizes: &[u64], limit: u64) -> Result<Self> {
        let counts = split::plan(sizes, limit);
        if counts.len() == 1 {
            return Self::create(path, header);
        }
        let (n_files, n_tensors) = (counts.len(), header.tensors().len());
        let Ok(n_files_16) = u16::try_from(n_files) else {
            let message = format!("{}: {n_files} files of {limit} bytes are too many", path.display());
            return Err(Error::new(Kind::Argument, message));
        };
        let paths = split::paths(path, n_files);
        let (mut parts, mut firsts, mut first) = (Vec::new(), Vec::new(), 0);
        for (no, (path, n)) in paths.iter().zip(&counts).enumerate() {
            let mut part = header.part(first..first + n, no == 0);
            part.set(split::NO, Value::U16(no as u16));
            part.set(split::COUNT, Value::U16(n_files_16));
            part.set(split::TENSORS, Value::I32(n_tensors as i32));
            parts.push(Part::create(path, part)?);
            firsts.push(first);
            first += n;
        }
        Ok(Self { behind: Behind::new()?, parts, firsts, paths })
    }

    /// Where the files will appear.
    pub fn paths(path: &Path, sizes: &[u64], limit: Option<u64>) -> Vec<PathBuf> {
        split::paths(path, limit.map_or(1, |limit| split::plan(sizes, limit).len()))
    }

    /// Begins a tensor, the next of the header's or the current one once more, as this type.
    pub fn begin(&mut self, index: usize, ty: Type) -> Result<()> {
        let part = self.firsts.partition_point(|&first| first <= index) - 1;
        if part > 0 && !self.parts[part - 1].is_complete() {
            return Err(self.parts[part].fault("tensors are written in the header's order"));
        }
        self.parts[part].begin(&mut self.behind, index - self.firsts[part], ty)
    }

    /// The next bytes of the current tensor.
    pub fn write(&mut self, bytes: Vec<u8>) -> Result<()> {
        // That of the tensor begun last.
        let current = self.parts.iter().rposition(|part| !part.begins.is_empty()).unwrap_or(0);
        self.parts[current].write(&mut self.behind, bytes)
    }

    /// Sets a key to another value of the same size.
    pub fn set(&mut self, key: &str, value: Value) {
        self.parts[0].header.set(key, value);
    }

    /// Completes the files, has them checked, and lets them appear under their names, the first at last: without it llama.cpp
    /// opens none of the others. Returns their length in bytes.
    pub fn finish(self, overwrite: bool, check: impl FnOnce(&File) -> Result<()>) -> Result<u64> {
        let Self { mut behind, mut parts, firsts: _, paths } = self;
        parts.iter_mut().try_for_each(|part| part.end(&mut behind))?;
        behind.finish()?;
        let mut bytes = 0;
        let mut files = Vec::new();
        for part in &mut parts {
            bytes += part.complete()?;
            files.push(part.read_back()?);
        }
        let first = files.remove(0);
        let written = if files.is_empty() { first } else { first.joined(files)? };
        check(&written)?;
        drop(written);
        let mut published: Vec<PathBuf> = Vec::new();
        for (part, path) in parts.into_iter().zip(&paths).rev() {
            if let Err(error) = part.draft.publish(overwrite) {
                // Of a model either all files are there or none of them.
                published.iter().for_each(|path| drop(std::fs::remove_file(path)));
                return Err(error);
            }
            published.push(path.clone());
        }
        Ok(bytes)
    }
}

/// One file in the making.
#[derive(Debug)]
struct Part {
    draft: Draft,
    target: Arc<Target>,
    header: Header,
    /// Length of the header.
    start: u64,
    /// Where each tensor begun so far begins.
    begins: Vec<u64>,
}

impl Part {
    fn create(path: &Path, header: Header) -> Result<Self> {
        let mut draft = Draft::beside(path)?;
        let bytes = header.to_bytes();
        draft.write(&bytes)?;
        Ok(Self { target: draft.target()?, draft, header, start: bytes.len() as u64, begins: Vec::new() })
    }

    fn begin(&mut self, behind: &mut Behind, index: usize, ty: Type) -> Result<()> {
        let entry = self.header.tensors().get(index).ok_or_else(|| self.fault("more tensors than the header has"))?;
        if entry.bytes_as(ty).is_none() {
            return Err(self.fault(&format!("tensor {} of shape {:?} cannot be {}", entry.name, entry.ne, ty.name())));
        }
        if index + 1 == self.begins.len() {
            self.draft.seek(self.begins[index]);
        } else if index == self.begins.len() {
            self.end(behind)?;
            self.begins.push(self.draft.at());
        } else {
            return Err(self.fault("tensors are written in the header's order"));
        }
        self.header.retype(index, ty);
        Ok(())
    }

    fn write(&mut self, behind: &mut Behind, bytes: Vec<u8>) -> Result<()> {
        let room = self.left();
        if bytes.len() as u64 > room {
            return Err(self.fault(&format!("{} bytes where the tensor has room for {room}", bytes.len())));
        }
        self.draft.write_behind(behind, &self.target, bytes)
    }

    /// Bytes that the current tensor lacks.
    fn left(&self) -> u64 {
        match self.begins.last() {
            Some(begin) => {
                (begin + self.header.tensors()[self.begins.len() - 1].bytes()).saturating_sub(self.draft.at())
            }
            None => 0,
        }
    }

    fn is_complete(&self) -> bool {
        self.begins.len() == self.header.tensors().len() && self.left() == 0
    }

    /// Ends the current tensor, padded as the format wants it.
    fn end(&mut self, behind: &mut Behind) -> Result<()> {
        if self.left() > 0 {
            return Err(self.fault(&format!("a tensor lacks {} bytes", self.left())));
        }
        let padding = self.draft.at().next_multiple_of(self.header.alignment()) - self.draft.at();
        self.draft.write_behind(behind, &self.target, vec![0; padding as usize])
    }

    /// Writes the header once more, behind all data. Returns the file's length.
    fn complete(&mut self) -> Result<u64> {
        if !self.is_complete() {
            return Err(self.fault("not every tensor was written"));
        }
        self.draft.truncate()?;
        let (bytes, header) = (self.draft.at(), self.header.to_bytes());
        if header.len() as u64 != self.start {
            return Err(self.fault("a key changed its size"));
        }
        self.draft.seek(0);
        self.draft.write(&header)?;
        Ok(bytes)
    }

    fn read_back(&self) -> Result<File> {
        let written = File::open_part(self.draft.here())?;
        let same = |(found, wanted): (&super::TensorInfo, &super::Entry)| {
            found.name == wanted.name && found.ty == wanted.ty && found.bytes == wanted.bytes()
        };
        let tensors = self.header.tensors();
        if written.tensors().len() != tensors.len() || !written.tensors().iter().zip(tensors).all(same) {
            return Err(self.fault("the file reads back differently"));
        }
        Ok(written)
    }

    fn fault(&self, what: &str) -> Error {
        Error::new(Kind::Internal, format!("{}: {what}", self.draft.path().display()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, Writer};
    use super::*;

    fn header() -> Header {
        let mut header = Header::new();
        header.set("general.alignment", Value::U32(64));
        header.set("general.file_type", Value::U32(0));
        header.push(Entry::new("a", Type::F32, &[3]).unwrap()).unwrap();
        header.push(Entry::new("b", Type::F32, &[32, 2]).unwrap()).unwrap();
        header
    }

    #[test]
    fn pieces_and_a_changed_mind_give_the_bytes_of_the_writer_in_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.gguf");
        let mut stream = Stream::create(&path, header()).unwrap();
        stream.begin(0, Type::F32).unwrap();
        stream.write(vec![1; 5]).unwrap();
        stream.write(vec![1; 7]).unwrap();
        stream.begin(1, Type::F32).unwrap();
        stream.write(vec![9; 200]).unwrap();
        stream.begin(1, Type::Q8_0).unwrap();
        stream.write(vec![2; 68]).unwrap();
        stream.set("general.file_type", Value::U32(7));
        let bytes = stream.finish(false, |_| Ok(())).unwrap();

        let mut writer = Writer::new();
        writer.set("general.alignment", Value::U32(64));
        writer.set("general.file_type", Value::U32(7));
        writer.tensor("a", Type::F32, &[3], vec![1; 12]).unwrap();
        writer.tensor("b", Type::Q8_0, &[32, 2], vec![2; 68]).unwrap();
        let written = std::fs::read(&path).unwrap();
        assert!(written == writer.to_bytes() && written.len() as u64 == bytes);
        assert_eq!(File::open(&path).unwrap().tensors()[1].offset % 64, 0);
    }

    #[test]
    fn what_is_not_complete_never_appears() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out.gguf");
        let fails = |write: &dyn Fn(&mut Stream) -> Result<()>| {
            let mut stream = Stream::create(&path, header()).unwrap();
            let result = write(&mut stream).and_then(|()| stream.finish(false, |_| Ok(())).map(|_| ()));
            assert_eq!(result.unwrap_err().kind(), Kind::Internal);
            assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        };
        fails(&|_| Ok(()));
        fails(&|s| s.begin(1, Type::F32));
        fails(&|s| s.begin(2, Type::F32));
        fails(&|s| s.begin(0, Type::F32).and_then(|()| s.write(vec![0; 13])));
        fails(&|s| s.begin(0, Type::F32).and_then(|()| s.begin(1, Type::F32)));
        fails(&|s| s.begin(0, Type::Q8_0));
        fails(&|s| {
            // More than the padding before the data has room for.
            s.set("general.more", Value::String("x".repeat(64)));
            s.begin(0, Type::F32).and_then(|()| s.write(vec![0; 12]))?;
            s.begin(1, Type::F32).and_then(|()| s.write(vec![0; 256]))
        });
        // A check that fails, and a name that is taken.
        let complete = || {
            let mut stream = Stream::create(&path, header()).unwrap();
            stream.begin(0, Type::F32).and_then(|()| stream.write(vec![0; 12])).unwrap();
            stream.begin(1, Type::F32).and_then(|()| stream.write(vec![0; 256])).unwrap();
            stream
        };
        let refuse = |_: &File| Err(Error::new(Kind::Format, "no"));
        assert_eq!(complete().finish(false, refuse).unwrap_err().kind(), Kind::Format);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        std::fs::write(&path, "mine").unwrap();
        assert_eq!(complete().finish(false, |_| Ok(())).unwrap_err().kind(), Kind::Output);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        complete().finish(true, |_| Ok(())).unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
