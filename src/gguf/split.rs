//! Models that lie in several files, as llama.cpp names and marks them: `NAME-00001-of-00003.gguf`.

use super::reader::File;
use super::Value;
use crate::error::{Error, Kind, Result};
use std::path::{Path, PathBuf};

/// Place of a file among its model's, from 0.
pub(super) const NO: &str = "split.no";
/// Files of the model.
pub(super) const COUNT: &str = "split.count";
/// Tensors of the model.
pub(super) const TENSORS: &str = "split.tensors.count";
/// What fits the 16 bits of the count.
const FILES_MAX: i128 = u16::MAX as i128;

/// The name of one of `count` files: `prefix` and the place from 1.
fn named(prefix: &str, no: usize, count: usize) -> String {
    format!("{prefix}-{:05}-of-{count:05}.gguf", no + 1)
}

/// Names of the files that `path` is split into; the path itself where there is one.
pub(super) fn paths(path: &Path, count: usize) -> Vec<PathBuf> {
    if count == 1 {
        return vec![path.to_owned()];
    }
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let prefix = name.strip_suffix(".gguf").unwrap_or(&name);
    (0..count).map(|no| path.with_file_name(named(prefix, no, count))).collect()
}

/// How many tensors each file gets so that none has more than `limit` bytes of data, except for a tensor that is larger alone.
pub(super) fn plan(sizes: &[u64], limit: u64) -> Vec<usize> {
    let (mut counts, mut bytes) = (vec![0], 0u64);
    for &size in sizes {
        if bytes > 0 && bytes.saturating_add(size) > limit {
            counts.push(0);
            bytes = 0;
        }
        bytes += size;
        if let Some(last) = counts.last_mut() {
            *last += 1;
        }
    }
    counts
}

/// The other files of the model whose first file this is, in order; none where it is all of it.
pub(super) fn others(first: &File) -> Result<Vec<File>> {
    let Some(count) = first.get(COUNT) else { return Ok(Vec::new()) };
    let path = first.path();
    let count = count.as_int().filter(|n| (0..=FILES_MAX).contains(n));
    let Some(count) = count else { return Err(first.fault(COUNT, "is no number of files")) };
    if count <= 1 {
        return Ok(Vec::new());
    }
    let no = first.get(NO).and_then(Value::as_int).unwrap_or(-1);
    let name = path.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let count = count as usize;
    let misplaced = |what: String| Error::new(Kind::Unsupported, format!("{}: key {NO} {what}", path.display()));
    let Some(prefix) = name.strip_suffix(&named("", no.clamp(0, FILES_MAX) as usize, count)).filter(|_| no >= 0) else {
        let what = format!("is {no} of {count} files: the name should end in {}", named("", 0, count));
        return Err(misplaced(what));
    };
    if no != 0 {
        return Err(misplaced(format!("is {no} of {count} files: the first is {}", named(prefix, 0, count))));
    }
    (1..count).map(|no| part(&path.with_file_name(named(prefix, no, count)), no, count)).collect()
}

fn part(path: &Path, no: usize, count: usize) -> Result<File> {
    let file = File::open_part(path)?;
    for (key, wanted) in [(NO, no), (COUNT, count)] {
        if file.get(key).and_then(Value::as_int) != Some(wanted as i128) {
            return Err(file.fault(key, &format!("is not {wanted}")));
        }
    }
    Ok(file)
}

/// Checks the number of tensors of all files together, where the first tells it.
pub(super) fn check_count(first: &File, n_tensors: usize) -> Result<()> {
    match first.get(TENSORS).map(Value::as_int) {
        Some(found) if found != Some(n_tensors as i128) => {
            let path = first.path().display();
            Err(Error::new(Kind::Format, format!("{path}: key {TENSORS} is not the number of tensors, {n_tensors}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        let found = paths(Path::new("dir/m.q4.gguf"), 2);
        assert_eq!(found, ["dir/m.q4-00001-of-00002.gguf", "dir/m.q4-00002-of-00002.gguf"].map(PathBuf::from));
        assert_eq!(paths(Path::new("m.gguf"), 1), [PathBuf::from("m.gguf")]);
    }

    #[test]
    fn files_are_filled_in_order() {
        assert_eq!(plan(&[4, 4, 4, 9, 1, 1], 8), [2, 1, 1, 2]);
        assert_eq!(plan(&[4, 4], 8), [2]);
        assert_eq!(plan(&[], 8), [0]);
    }
}
